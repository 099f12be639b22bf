package dev.standpipe.client;

import com.google.protobuf.ByteString;
import dev.standpipe.v1.Degradation;
import dev.standpipe.v1.Omission;
import dev.standpipe.v1.OmissionCount;
import dev.standpipe.v1.RecallInfo;
import dev.standpipe.v1.Section;
import dev.standpipe.v1.Timings;
import dev.standpipe.v1.TokenTax;
import java.util.HexFormat;
import java.util.List;
import java.util.Map;
import java.util.Optional;

/** Everything that the model should see before the user's new message. */
public final class Bundle {
  private final dev.standpipe.v1.Bundle message;
  private final String query;
  private final ByteString receipt;
  private final String token;
  private final List<Degradation> degraded;
  private final Timings timings;
  private final TokenTax tax;
  private final RecallInfo recall;

  /**
   * Makes a bundle of one that was kept, to render it.
   *
   * @param message as it came
   * @param query what it was hydrated with
   */
  public Bundle(dev.standpipe.v1.Bundle message, String query) {
    this(message, query, ByteString.EMPTY, "", List.of(), null, null, null);
  }

  Bundle(
      dev.standpipe.v1.Bundle message,
      String query,
      ByteString receipt,
      String token,
      List<Degradation> degraded,
      Timings timings,
      TokenTax tax,
      RecallInfo recall) {
    this.message = message;
    this.query = query;
    this.receipt = receipt;
    this.token = token;
    this.degraded = degraded;
    this.timings = timings;
    this.tax = tax;
    this.recall = recall;
  }

  /**
   * Returns the bundle as it came; what follows reads it.
   *
   * @return the message
   */
  public dev.standpipe.v1.Bundle message() {
    return message;
  }

  /**
   * Returns what it was hydrated with.
   *
   * @return the query; may be empty
   */
  public String query() {
    return query;
  }

  /**
   * Returns what renders it again with {@link StandpipeClient#replay}; a commit that answers it stores it with the
   * turn.
   *
   * @return the receipt
   */
  public ByteString receipt() {
    return receipt;
  }

  /**
   * Returns the consistency token of what it has seen.
   *
   * @return the token; empty for a replay
   */
  public String token() {
    return token;
  }

  /**
   * Returns the sources that are missing or reduced, and why (P12).
   *
   * @return empty when all is well
   */
  public List<Degradation> degraded() {
    return degraded;
  }

  /**
   * Returns where the time went, in microseconds.
   *
   * @return empty for a replay
   */
  public Optional<Timings> timings() {
    return Optional.ofNullable(timings);
  }

  /**
   * Returns what it costs, in tokens.
   *
   * @return empty for a replay
   */
  public Optional<TokenTax> tax() {
    return Optional.ofNullable(tax);
  }

  /**
   * Returns what recall searched.
   *
   * @return empty when it was not asked for
   */
  public Optional<RecallInfo> recall() {
    return Optional.ofNullable(recall);
  }

  /**
   * Returns its sections in the order of Source; a source without content has none.
   *
   * @return the sections
   */
  public List<Section> sections() {
    return message.getSectionsList();
  }

  /**
   * Returns its tokens, never more than {@link #budgetTokens} (P5).
   *
   * @return the sum of the sections' tokens
   */
  public int tokens() {
    return message.getTokens();
  }

  /**
   * Returns the total that was in force.
   *
   * @return tokens
   */
  public int budgetTokens() {
    return message.getBudgetTokens();
  }

  /**
   * Returns the tokenizer that counted.
   *
   * @return its name
   */
  public String tokenizer() {
    return message.getTokenizer();
  }

  /**
   * Returns the SHA-256 of its canonical bytes: equal means identical model input (P6).
   *
   * @return hexadecimal digits
   */
  public String fingerprint() {
    return HexFormat.of().formatHex(message.getFingerprint().toByteArray());
  }

  /**
   * Returns the policy that shaped it.
   *
   * @return name@version
   */
  public String policy() {
    return message.getPolicy();
  }

  /**
   * Returns the session's version that it shows.
   *
   * @return the version; 0 for a session that does not exist yet
   */
  public long version() {
    return message.getSessionVersion();
  }

  /**
   * Returns the best-ranked candidates that were left out, and why; all of them in a full replay.
   *
   * @return the omissions
   */
  public List<Omission> omissions() {
    return message.getOmissionsList();
  }

  /**
   * Returns how many candidates were left out, by source and reason.
   *
   * @return the counts
   */
  public List<OmissionCount> omissionCounts() {
    return message.getOmissionCountsList();
  }

  /**
   * Returns its canonical text: header and body of all segments, without the query.
   *
   * @return the text
   */
  public String text() {
    StringBuilder out = new StringBuilder();
    sections().forEach(section -> out.append(Rendering.text(section)));
    return out.toString();
  }

  /**
   * Returns OpenAI chat messages for the query that it was hydrated with, see {@link #toOpenAI(String)}.
   *
   * @return the messages
   */
  public List<Map<String, Object>> toOpenAI() {
    return toOpenAI(query);
  }

  /**
   * Returns OpenAI chat messages; the last is the user's, with what was found and {@code query}, if there is either.
   *
   * <p>Content is plain text and there is one system message at most, since many compatible servers take no other; its
   * sections are set apart by an empty line. A speaker's name goes into {@code name} where OpenAI allows it. A failed
   * tool's result starts with "error: ", since this form has no field for it. Maps and lists may be changed, and have
   * JSON's types: Map, List, String, Long, BigInteger, Double, Boolean, null.
   *
   * @param query the user's new message; null means what it was hydrated with
   * @return the messages
   */
  public List<Map<String, Object>> toOpenAI(String query) {
    return new Rendering(this, query).openAI();
  }

  /**
   * Returns {@link #toOpenAI()} as JSON text: the same bundle always gives the same.
   *
   * @return a JSON array
   */
  public String toOpenAIJson() {
    return toOpenAIJson(query);
  }

  /**
   * Returns {@link #toOpenAI(String)} as JSON text: the same bundle and query always give the same.
   *
   * @param query the user's new message; null means what it was hydrated with
   * @return a JSON array
   */
  public String toOpenAIJson(String query) {
    return Json.write(toOpenAI(query));
  }

  /**
   * Returns the form for Anthropic for the query that it was hydrated with, see {@link #toAnthropic(String)}.
   *
   * @return "system" and "messages"
   */
  public Map<String, Object> toAnthropic() {
    return toAnthropic(query);
  }

  /**
   * Returns {@code system} and {@code messages} for Anthropic's Messages API, with cache breakpoints.
   *
   * <p>Roles alternate: neighbours of one role are one message of several blocks. A history that starts with the
   * assistant gets "[start of the visible conversation]" in front. Every section that has a {@code cache_breakpoint},
   * and the history always, ends in a block with {@code cache_control}. Blocks of white space alone are left out, since
   * the API refuses them.
   *
   * @param query the user's new message; null means what it was hydrated with
   * @return "system" and "messages"
   */
  public Map<String, Object> toAnthropic(String query) {
    return new Rendering(this, query).anthropic();
  }

  /**
   * Returns {@link #toAnthropic()} as JSON text: the same bundle always gives the same.
   *
   * @return a JSON object
   */
  public String toAnthropicJson() {
    return toAnthropicJson(query);
  }

  /**
   * Returns {@link #toAnthropic(String)} as JSON text: the same bundle and query always give the same.
   *
   * @param query the user's new message; null means what it was hydrated with
   * @return a JSON object
   */
  public String toAnthropicJson(String query) {
    return Json.write(toAnthropic(query));
  }

  /** Names it without showing content. */
  @Override
  public String toString() {
    String print = fingerprint();
    return "Bundle[version=" + version() + " tokens=" + tokens() + " fingerprint="
        + print.substring(0, Math.min(12, print.length())) + "]";
  }
}
