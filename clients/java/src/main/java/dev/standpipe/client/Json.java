package dev.standpipe.client;

import com.google.gson.Strictness;
import com.google.gson.stream.JsonReader;
import com.google.gson.stream.JsonToken;
import com.google.gson.stream.MalformedJsonException;
import java.io.IOException;
import java.io.StringReader;
import java.math.BigInteger;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/** JSON as the other clients read and write it. */
final class Json {
  /** What is nested deeper is not read: the same limit in all languages, far within every parser's own. */
  private static final int NESTED_MAX = 128;

  private Json() {}

  /**
   * Returns a value as JSON text without blanks, escaped no more than needed.
   *
   * @throws IllegalArgumentException for what JSON does not have
   */
  static String write(Object value) {
    StringBuilder out = new StringBuilder();
    write(value, out);
    return out.toString();
  }

  private static void write(Object value, StringBuilder out) {
    if (value instanceof Map<?, ?> map) {
      out.append('{');
      for (Map.Entry<?, ?> entry : map.entrySet()) {
        if (!(entry.getKey() instanceof String name)) {
          throw new IllegalArgumentException("a name in JSON is a text");
        }
        quote(name, out);
        out.append(':');
        write(entry.getValue(), out);
        out.append(',');
      }
      close(out, '{', '}');
    } else if (value instanceof Iterable<?> all) {
      out.append('[');
      for (Object one : all) {
        write(one, out);
        out.append(',');
      }
      close(out, '[', ']');
    } else if (value instanceof CharSequence text) {
      quote(text.toString(), out);
    } else if (value == null || value instanceof Boolean) {
      out.append(value);
    } else if (value instanceof Number number && isFinite(number)) {
      out.append(number);
    } else {
      throw new IllegalArgumentException("JSON has no value for " + value.getClass().getSimpleName());
    }
  }

  private static void close(StringBuilder out, char begin, char end) {
    if (out.charAt(out.length() - 1) == begin) {
      out.append(end);
    } else {
      out.setCharAt(out.length() - 1, end);
    }
  }

  private static boolean isFinite(Number number) {
    return !(number instanceof Double || number instanceof Float) || Double.isFinite(number.doubleValue());
  }

  private static void quote(String text, StringBuilder out) {
    out.append('"');
    for (int at = 0; at < text.length(); at++) {
      char c = text.charAt(at);
      switch (c) {
        case '"' -> out.append("\\\"");
        case '\\' -> out.append("\\\\");
        case '\n' -> out.append("\\n");
        case '\r' -> out.append("\\r");
        case '\t' -> out.append("\\t");
        case '\b' -> out.append("\\b");
        case '\f' -> out.append("\\f");
        default -> {
          if (c < ' ') {
            out.append(String.format("\\u%04x", (int) c));
          } else {
            out.append(c);
          }
        }
      }
    }
    out.append('"');
  }

  /** Returns whether UTF-8 can carry a text: no half of a surrogate pair stands alone. */
  static boolean isUnicode(String text) {
    for (int at = 0; at < text.length(); at++) {
      char c = text.charAt(at);
      if (Character.isSurrogate(c)) {
        if (Character.isLowSurrogate(c) || ++at == text.length() || !Character.isLowSurrogate(text.charAt(at))) {
          return false;
        }
      }
    }
    return true;
  }

  /** Returns the object that a text is, as JSON and nothing else; null if it is none that can be written again. */
  static Map<String, Object> object(String text) {
    if (text.startsWith("\ufeff")) {
      return null;
    }
    try (JsonReader reader = new JsonReader(new StringReader(text))) {
      reader.setStrictness(Strictness.STRICT);
      reader.setNestingLimit(NESTED_MAX);
      if (reader.peek() != JsonToken.BEGIN_OBJECT) {
        return null;
      }
      Map<String, Object> found = object(reader);
      return reader.peek() == JsonToken.END_DOCUMENT ? found : null;
    } catch (IOException | NumberFormatException notJson) {
      return null;
    }
  }

  private static Map<String, Object> object(JsonReader reader) throws IOException {
    Map<String, Object> out = new LinkedHashMap<>();
    reader.beginObject();
    while (reader.hasNext()) {
      String name = checked(reader.nextName());
      out.put(name, value(reader));
    }
    reader.endObject();
    return out;
  }

  private static Object value(JsonReader reader) throws IOException {
    switch (reader.peek()) {
      case BEGIN_OBJECT:
        return object(reader);
      case BEGIN_ARRAY:
        List<Object> out = new ArrayList<>();
        reader.beginArray();
        while (reader.hasNext()) {
          out.add(value(reader));
        }
        reader.endArray();
        return out;
      case STRING:
        return checked(reader.nextString());
      case BOOLEAN:
        return reader.nextBoolean();
      case NULL:
        reader.nextNull();
        return null;
      default:
        return number(reader.nextString());
    }
  }

  private static Object number(String text) throws IOException {
    double value = Double.parseDouble(text);
    if (Double.isInfinite(value)) {
      throw new MalformedJsonException("a number that not every language can hold");
    }
    if (text.chars().anyMatch(c -> c == '.' || c == 'e' || c == 'E')) {
      return value;
    }
    BigInteger whole = new BigInteger(text);
    return whole.bitLength() < Long.SIZE ? (Object) whole.longValueExact() : whole;
  }

  private static String checked(String text) throws IOException {
    if (!isUnicode(text)) {
      throw new MalformedJsonException("half a surrogate pair, which no UTF-8 can carry");
    }
    return text;
  }
}
