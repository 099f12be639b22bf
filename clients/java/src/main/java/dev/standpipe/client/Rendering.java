package dev.standpipe.client;

import dev.standpipe.v1.Role;
import dev.standpipe.v1.Section;
import dev.standpipe.v1.Segment;
import dev.standpipe.v1.SegmentKind;
import dev.standpipe.v1.Source;
import java.nio.charset.StandardCharsets;
import java.security.MessageDigest;
import java.security.NoSuchAlgorithmException;
import java.util.ArrayList;
import java.util.EnumSet;
import java.util.HexFormat;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.regex.Pattern;

/**
 * A bundle in the form of the models' own APIs.
 *
 * <p>Both forms keep the order that prompt caches want, stable before volatile, and the same bundle and query always
 * give the same JSON bytes:
 *
 * <ul>
 *   <li>POLICY, PROFILE and SUMMARY, in this order, are the system side, as canonical text.
 *   <li>HISTORY becomes real messages: a body without its final newline and without the header, whose role the message
 *       itself has. A tool call and its result stay next to each other. Should one ever come without the other, it
 *       becomes plain text, since providers refuse half a pair. Frame lines become text on the user's side.
 *   <li>RECALL, FACTS and DOCUMENTS stand in front of the query in the last user message: what a query finds in what
 *       was said is never system. So does a section whose source this client does not know yet.
 * </ul>
 *
 * <p>Providers are narrower than Standpipe, so some names are mapped, always in the same way: a tool name's characters
 * outside A-Z a-z 0-9 _ - become "_" and 64 are kept; a call id with other characters, or longer than 40, becomes
 * "call_" and 32 digits of its SHA-256; arguments that are not a JSON object, such as shortened ones, become {"raw":
 * text}.
 */
final class Rendering {
  /** Anthropic's first message must be the user's: this stands there when the history starts with the assistant. */
  static final String HISTORY_START = "[start of the visible conversation]";

  /** Cache breakpoints that Anthropic takes in one request; the last ones stay, since they cover most. */
  static final int BREAKPOINTS_MAX = 4;

  private static final int NAME_MAX = 64;
  private static final Set<Source> SYSTEM =
      EnumSet.of(Source.SOURCE_POLICY, Source.SOURCE_PROFILE, Source.SOURCE_SUMMARY);
  private static final Pattern NAME = Pattern.compile("[a-zA-Z0-9_-]{1,64}");
  private static final Pattern CALL_ID = Pattern.compile("[a-zA-Z0-9_-]{1,40}");
  private static final Pattern NOT_NAME = Pattern.compile("[^a-zA-Z0-9_-]");

  private static final String OTHER_BLANKS = "\u0085\u00a0\u1680\u2028\u2029\u202f\u205f\u3000";

  private final Bundle bundle;
  private final String query;

  /** What stands in the history: a segment, or a tool call together with its result. */
  private record Step(Segment segment, Segment result) {}

  /** A call's arguments as JSON text, unchanged if it is an object, and as that object. */
  private record Arguments(String text, Map<String, Object> value) {}

  Rendering(Bundle bundle, String query) {
    this.bundle = bundle;
    this.query = query == null ? bundle.query() : query;
  }

  List<Map<String, Object>> openAI() {
    List<Map<String, Object>> out = new ArrayList<>();
    List<String> system = new ArrayList<>();
    for (Section section : bundle.sections()) {
      if (SYSTEM.contains(section.getSource())) {
        system.add(text(section));
      }
    }
    if (!system.isEmpty()) {
      out.add(message("role", "system", "content", chomp(String.join("\n", system))));
    }
    for (Step step : history()) {
      Segment segment = step.segment;
      if (step.result == null) {
        String role = role(segment);
        Map<String, Object> said = message("role", role, "content", content(segment));
        if (!segment.getName().equals(role) && isSpoken(segment) && NAME.matcher(segment.getName()).matches()) {
          said.put("name", segment.getName());
        }
        out.add(said);
        continue;
      }
      Map<String, Object> call = message("id", callId(segment), "type", "function");
      call.put("function", message("name", toolName(segment), "arguments", arguments(segment).text));
      Map<String, Object> asked = message("role", "assistant", "content", null);
      asked.put("tool_calls", listOf(call));
      out.add(asked);
      Map<String, Object> answered = message("role", "tool", "tool_call_id", callId(segment));
      answered.put("content", (step.result.getIsError() ? "error: " : "") + body(step.result));
      out.add(answered);
    }
    String recalled = recalled();
    if (!recalled.isEmpty() || !query.isEmpty()) {
      String last = recalled.isEmpty() ? query : query.isEmpty() ? recalled : recalled + "\n" + query;
      out.add(message("role", "user", "content", last));
    }
    return out;
  }

  Map<String, Object> anthropic() {
    List<Map<String, Object>> marks = new ArrayList<>();
    List<Map<String, Object>> system = new ArrayList<>();
    for (Section section : bundle.sections()) {
      String text = chomp(text(section));
      if (SYSTEM.contains(section.getSource()) && !isBlank(text)) {
        Map<String, Object> block = message("type", "text", "text", text);
        system.add(block);
        if (section.getCacheBreakpoint()) {
          marks.add(block);
        }
      }
    }
    Messages messages = new Messages();
    for (Step step : history()) {
      Segment segment = step.segment;
      if (step.result == null) {
        String content = content(segment);
        if (!isBlank(content)) {
          messages.add(role(segment), message("type", "text", "text", content));
        }
        continue;
      }
      Map<String, Object> use = message("type", "tool_use", "id", callId(segment));
      use.put("name", toolName(segment));
      use.put("input", arguments(segment).value);
      messages.add("assistant", use);
      Map<String, Object> answer = message("type", "tool_result", "tool_use_id", callId(segment));
      String content = body(step.result);
      if (!isBlank(content)) {
        answer.put("content", content);
      }
      if (step.result.getIsError()) {
        answer.put("is_error", true);
      }
      messages.add("user", answer);
    }
    if (messages.last != null) {
      marks.add(messages.last);
    }
    for (String text : List.of(chomp(recalled()), query)) {
      if (!isBlank(text)) {
        messages.add("user", message("type", "text", "text", text));
      }
    }
    for (Map<String, Object> block : marks.subList(Math.max(0, marks.size() - BREAKPOINTS_MAX), marks.size())) {
      Map<String, Object> control = new LinkedHashMap<>();
      control.put("type", "ephemeral");
      block.put("cache_control", control);
    }
    return message("system", system, "messages", messages.all);
  }

  /** Messages whose roles alternate. */
  private static final class Messages {
    final List<Map<String, Object>> all = new ArrayList<>();
    Map<String, Object> last;
    private String speaker = "";
    private List<Object> blocks;

    void add(String role, Map<String, Object> block) {
      if (all.isEmpty() && role.equals("assistant")) {
        add("user", message("type", "text", "text", HISTORY_START));
      }
      if (!role.equals(speaker)) {
        speaker = role;
        blocks = new ArrayList<>();
        all.add(message("role", role, "content", blocks));
      }
      blocks.add(block);
      last = block;
    }
  }

  private List<Step> history() {
    List<Segment> segments = new ArrayList<>();
    for (Section section : bundle.sections()) {
      if (section.getSource() == Source.SOURCE_HISTORY) {
        segments.addAll(section.getSegmentsList());
      }
    }
    List<Step> steps = new ArrayList<>();
    for (int at = 0; at < segments.size(); at++) {
      Segment one = segments.get(at);
      Segment next = at + 1 < segments.size() ? segments.get(at + 1) : null;
      if (next != null
          && one.getKind() == SegmentKind.SEGMENT_KIND_TOOL_CALL
          && next.getKind() == SegmentKind.SEGMENT_KIND_TOOL_RESULT
          && one.getToolCallId().equals(next.getToolCallId())) {
        steps.add(new Step(one, next));
        at++;
      } else {
        steps.add(new Step(one, null));
      }
    }
    return steps;
  }

  private String recalled() {
    StringBuilder out = new StringBuilder();
    for (Section section : bundle.sections()) {
      if (!SYSTEM.contains(section.getSource()) && section.getSource() != Source.SOURCE_HISTORY) {
        out.append(text(section));
      }
    }
    return out.toString();
  }

  static String text(Section section) {
    StringBuilder out = new StringBuilder();
    for (Segment segment : section.getSegmentsList()) {
      out.append(segment.getHeader()).append(segment.getBody());
    }
    return out.toString();
  }

  private static String body(Segment segment) {
    return chomp(segment.getBody());
  }

  private static boolean isSpoken(Segment segment) {
    return segment.getKind() == SegmentKind.SEGMENT_KIND_TEXT;
  }

  /** Returns what a message says; what nobody said keeps its header, as the only word on what it is. */
  private static String content(Segment segment) {
    return isSpoken(segment) ? body(segment) : segment.getHeader() + body(segment);
  }

  private static String role(Segment segment) {
    boolean frame = segment.getKind() == SegmentKind.SEGMENT_KIND_FRAME;
    return segment.getRole() == Role.ROLE_ASSISTANT && !frame ? "assistant" : "user";
  }

  private static String toolName(Segment call) {
    String name = NOT_NAME.matcher(call.getName()).replaceAll("_");
    return name.isEmpty() ? "tool" : name.substring(0, Math.min(NAME_MAX, name.length()));
  }

  private static String callId(Segment call) {
    String id = call.getToolCallId();
    if (CALL_ID.matcher(id).matches()) {
      return id;
    }
    try {
      byte[] hash = MessageDigest.getInstance("SHA-256").digest(id.getBytes(StandardCharsets.UTF_8));
      return "call_" + HexFormat.of().formatHex(hash).substring(0, 32);
    } catch (NoSuchAlgorithmException never) {
      throw new IllegalStateException("every Java has SHA-256", never);
    }
  }

  private static Arguments arguments(Segment call) {
    String text = body(call);
    if (isBlank(text)) {
      return new Arguments("{}", new LinkedHashMap<>());
    }
    Map<String, Object> value = Json.object(text);
    if (value != null) {
      return new Arguments(text, value);
    }
    Map<String, Object> raw = new LinkedHashMap<>();
    raw.put("raw", text);
    return new Arguments("{\"raw\": " + Json.write(text) + "}", raw);
  }

  private static String chomp(String text) {
    return text.endsWith("\n") ? text.substring(0, text.length() - 1) : text;
  }

  /** Returns whether there is nothing but white space, as all clients know it; no method of Java's is this set. */
  private static boolean isBlank(String text) {
    return text.chars()
        .allMatch(
            c ->
                (c >= 0x09 && c <= 0x0d)
                    || (c >= 0x1c && c <= 0x20)
                    || (c >= 0x2000 && c <= 0x200a)
                    || OTHER_BLANKS.indexOf(c) >= 0);
  }

  private static Map<String, Object> message(String key, Object value, String key2, Object value2) {
    Map<String, Object> out = new LinkedHashMap<>();
    out.put(key, value);
    out.put(key2, value2);
    return out;
  }

  private static List<Object> listOf(Object one) {
    List<Object> out = new ArrayList<>();
    out.add(one);
    return out;
  }
}
