package dev.standpipe.client;

import com.google.protobuf.Timestamp;
import dev.standpipe.v1.EventRef;
import dev.standpipe.v1.Message;
import dev.standpipe.v1.Role;
import dev.standpipe.v1.ToolCall;
import dev.standpipe.v1.ToolResult;
import dev.standpipe.v1.TurnEntry;
import java.time.Instant;
import java.util.List;
import java.util.Map;

/**
 * The entries of a turn, in the caller's words: {@code List.of(user("Hi"), assistant("Hello!"))}.
 *
 * <p>Limits are the server's (turn.proto): 1 to 256 entries a turn, 512 KiB of text each, 256 KiB of arguments. What
 * these methods cannot say, such as media, is a {@link TurnEntry} built by hand: a commit takes both. Text that holds
 * half a surrogate pair is an IllegalArgumentException, since UTF-8 could not carry it.
 */
public final class Entries {
  private Entries() {}

  /**
   * Returns what the human said.
   *
   * @param text the message
   * @return the entry
   */
  public static TurnEntry user(String text) {
    return user(text, "");
  }

  /**
   * Returns what the human said.
   *
   * @param text the message
   * @param speaker shown instead of "user"
   * @return the entry
   */
  public static TurnEntry user(String text, String speaker) {
    return user(text, speaker, null, List.of());
  }

  /**
   * Returns what the human said.
   *
   * @param text the message
   * @param speaker shown instead of "user"; may be empty
   * @param at when it was said; null means the time of the commit
   * @param citations what it rests on
   * @return the entry
   */
  public static TurnEntry user(String text, String speaker, Instant at, List<EventRef> citations) {
    return message(Role.ROLE_USER, text, speaker, at, citations);
  }

  /**
   * Returns what the model said.
   *
   * @param text the message
   * @return the entry
   */
  public static TurnEntry assistant(String text) {
    return assistant(text, "");
  }

  /**
   * Returns what the model said.
   *
   * @param text the message
   * @param speaker shown instead of "assistant"
   * @return the entry
   */
  public static TurnEntry assistant(String text, String speaker) {
    return assistant(text, speaker, null, List.of());
  }

  /**
   * Returns what the model said.
   *
   * @param text the message
   * @param speaker shown instead of "assistant"; may be empty
   * @param at when it was said; null means the time of the commit
   * @param citations what it rests on
   * @return the entry
   */
  public static TurnEntry assistant(String text, String speaker, Instant at, List<EventRef> citations) {
    return message(Role.ROLE_ASSISTANT, text, speaker, at, citations);
  }

  /**
   * Returns a call that the model made.
   *
   * @param id the model's id of the call
   * @param name the tool's name
   * @param argumentsJson the JSON text as the model wrote it; empty for none
   * @return the entry
   */
  public static TurnEntry toolCall(String id, String name, String argumentsJson) {
    return TurnEntry.newBuilder()
        .setToolCall(
            ToolCall.newBuilder()
                .setId(unicode("id", id))
                .setName(unicode("name", name))
                .setArgumentsJson(unicode("arguments", argumentsJson)))
        .build();
  }

  /**
   * Returns a call that the model made.
   *
   * @param id the model's id of the call
   * @param name the tool's name
   * @param arguments JSON's types: Map, Iterable, String, Number, Boolean, null
   * @return the entry
   * @throws IllegalArgumentException if they cannot be written as JSON
   */
  public static TurnEntry toolCall(String id, String name, Map<String, ?> arguments) {
    return toolCall(id, name, Json.write(arguments));
  }

  /**
   * Returns what a tool answered.
   *
   * @param callId the id of a call of this turn, or still open from an earlier one
   * @param content the answer; may be empty
   * @return the entry
   */
  public static TurnEntry toolResult(String callId, String content) {
    return toolResult(callId, content, false);
  }

  /**
   * Returns what a tool answered.
   *
   * @param callId the id of a call of this turn, or still open from an earlier one
   * @param content the answer; may be empty
   * @param isError whether the tool failed
   * @return the entry
   */
  public static TurnEntry toolResult(String callId, String content, boolean isError) {
    return TurnEntry.newBuilder()
        .setToolResult(
            ToolResult.newBuilder()
                .setCallId(unicode("callId", callId))
                .setContent(unicode("content", content))
                .setIsError(isError))
        .build();
  }

  private static TurnEntry message(Role role, String text, String speaker, Instant at, List<EventRef> citations) {
    Message.Builder message =
        Message.newBuilder()
            .setRole(role)
            .setText(unicode("text", text))
            .setSpeaker(unicode("speaker", speaker))
            .addAllCitations(citations);
    if (at != null) {
      message.setSpokenAt(Timestamp.newBuilder().setSeconds(at.getEpochSecond()).setNanos(at.getNano()));
    }
    return TurnEntry.newBuilder().setMessage(message).build();
  }

  /** Protobuf would write "?" in place of what UTF-8 cannot carry, without a word. */
  static String unicode(String field, String text) {
    if (!Json.isUnicode(text)) {
      throw new IllegalArgumentException(field + ": half a surrogate pair stands alone, which no UTF-8 can carry");
    }
    return text;
  }
}
