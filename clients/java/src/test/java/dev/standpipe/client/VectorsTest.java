package dev.standpipe.client;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.google.gson.JsonArray;
import com.google.gson.JsonElement;
import com.google.gson.JsonObject;
import com.google.gson.JsonParser;
import com.google.gson.JsonPrimitive;
import com.google.protobuf.InvalidProtocolBufferException;
import com.google.protobuf.Message;
import com.google.protobuf.util.JsonFormat;
import dev.standpipe.v1.Consistency;
import dev.standpipe.v1.EventRef;
import dev.standpipe.v1.TurnEntry;
import io.grpc.Metadata;
import io.grpc.Status;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.OffsetDateTime;
import java.util.ArrayList;
import java.util.Base64;
import java.util.List;
import java.util.Map;
import java.util.stream.Stream;
import java.util.stream.StreamSupport;
import org.junit.jupiter.api.DynamicTest;
import org.junit.jupiter.api.TestFactory;
import org.junit.jupiter.api.function.ThrowingConsumer;

/** What every client must do, as data that all languages run: tests/vectors of the repository. */
final class VectorsTest {
  private static final Path VECTORS = Path.of(System.getProperty("standpipe.vectors", "../../tests/vectors"));

  @TestFactory
  Stream<DynamicTest> rendering() throws IOException {
    return each(
        "rendering.json",
        row -> {
          dev.standpipe.v1.Bundle message = message(row.get("bundle"), dev.standpipe.v1.Bundle.newBuilder());
          boolean asked = !row.get("query").isJsonNull();
          String query = asked ? row.get("query").getAsString() : null;
          Bundle bundle = new Bundle(message, asked ? query : "");
          JsonElement openai = row.get("openai");
          JsonElement anthropic = row.get("anthropic");
          assertSame(openai, JsonParser.parseString(bundle.toOpenAIJson()));
          assertSame(anthropic, JsonParser.parseString(bundle.toAnthropicJson()));
          assertSame(openai, JsonParser.parseString(bundle.toOpenAIJson(null)));
          if (asked) {
            Bundle other = new Bundle(message, "something else");
            assertSame(openai, JsonParser.parseString(other.toOpenAIJson(query)));
            assertSame(anthropic, JsonParser.parseString(other.toAnthropicJson(query)));
          }
        });
  }

  @TestFactory
  Stream<DynamicTest> errors() throws IOException {
    return each(
        "errors.json",
        row -> {
          Metadata trailers = new Metadata();
          if (!row.get("details_base64").isJsonNull()) {
            trailers.put(
                Metadata.Key.of("grpc-status-details-bin", Metadata.BINARY_BYTE_MARSHALLER),
                Base64.getDecoder().decode(row.get("details_base64").getAsString()));
          }
          Status status =
              Status.fromCode(Status.Code.valueOf(row.get("code").getAsString()))
                  .withDescription(row.get("message").getAsString());
          StandpipeException error = StandpipeException.of(status.asRuntimeException(trailers));
          JsonObject told = Driver.told(error);
          assertEquals(row.get("message"), told.remove("message"));
          assertTrue(told.remove("request_id").isJsonNull());
          assertSame(row.get("expect"), told);
        });
  }

  @TestFactory
  Stream<DynamicTest> entries() throws IOException {
    return each(
        "entries.json",
        row -> {
          JsonObject call = row.getAsJsonObject("call");
          TurnEntry made = entry(call.get("helper").getAsString(), call.getAsJsonObject("arguments"));
          assertEquals(message(row.get("entry"), TurnEntry.newBuilder()), made);
        });
  }

  private static TurnEntry entry(String helper, JsonObject given) throws InvalidProtocolBufferException {
    switch (helper) {
      case "tool_call":
        String id = given.get("id").getAsString();
        String name = given.get("name").getAsString();
        if (given.has("arguments") && given.get("arguments").isJsonObject()) {
          Map<String, Object> arguments = Json.object(given.get("arguments").toString());
          return Entries.toolCall(id, name, arguments);
        }
        return Entries.toolCall(id, name, text(given, "arguments"));
      case "tool_result":
        boolean isError = given.has("is_error") && given.get("is_error").getAsBoolean();
        return Entries.toolResult(text(given, "call_id"), text(given, "content"), isError);
      default:
        List<EventRef> citations = new ArrayList<>();
        if (given.has("citations")) {
          for (JsonElement one : given.getAsJsonArray("citations")) {
            citations.add(message(one, EventRef.newBuilder()));
          }
        }
        var at = given.has("at") ? OffsetDateTime.parse(text(given, "at")).toInstant() : null;
        return helper.equals("user")
            ? Entries.user(text(given, "text"), text(given, "speaker"), at, citations)
            : Entries.assistant(text(given, "text"), text(given, "speaker"), at, citations);
    }
  }

  @TestFactory
  Stream<DynamicTest> tokens() throws IOException {
    return each(
        "tokens.json",
        row -> {
          try (StandpipeClient client = StandpipeClient.connect("127.0.0.1:1")) {
            Session session = client.session("s", "anna", row.get("initial").getAsString());
            for (JsonElement one : row.getAsJsonArray("seen")) {
              JsonObject answer = one.getAsJsonObject();
              session.saw(answer.get("version").getAsLong(), answer.get("token").getAsString());
            }
            HydrateOptions options = HydrateOptions.create();
            if (!row.get("consistency").isJsonNull()) {
              options = options.consistency(message(row.get("consistency"), Consistency.newBuilder()));
            }
            var request = session.hydrating("", options).request();
            assertEquals(!row.get("sends").isJsonNull(), request.hasConsistency());
            if (request.hasConsistency()) {
              assertEquals(message(row.get("sends"), Consistency.newBuilder()), request.getConsistency());
            }
          }
        });
  }

  @TestFactory
  Stream<DynamicTest> textsThatMustComeBack() throws IOException {
    JsonElement limits = JsonParser.parseString(Files.readString(VECTORS.resolve("limits.json")));
    return each(
        limits.getAsJsonObject().getAsJsonArray("texts"),
        row -> {
          String text = row.get("text").getAsString();
          TurnEntry entry = TurnEntry.parseFrom(Entries.user(text).toByteArray());
          assertEquals(text, entry.getMessage().getText());
          Bundle bundle = new Bundle(dev.standpipe.v1.Bundle.getDefaultInstance(), text);
          assertEquals(text, bundle.toOpenAI().get(0).get("content"));
          JsonArray written = JsonParser.parseString(bundle.toOpenAIJson()).getAsJsonArray();
          assertEquals(text, written.get(0).getAsJsonObject().get("content").getAsString());
        });
  }

  private static String text(JsonObject given, String name) {
    return given.has(name) ? given.get(name).getAsString() : "";
  }

  @SuppressWarnings("unchecked") // a builder of M builds M
  private static <M extends Message> M message(JsonElement json, Message.Builder builder)
      throws InvalidProtocolBufferException {
    JsonFormat.parser().merge(json.toString(), builder);
    return (M) builder.build();
  }

  private static Stream<DynamicTest> each(String file, ThrowingConsumer<JsonObject> test) throws IOException {
    return each(JsonParser.parseString(Files.readString(VECTORS.resolve(file))).getAsJsonArray(), test);
  }

  private static Stream<DynamicTest> each(JsonArray rows, ThrowingConsumer<JsonObject> test) {
    assertFalse(rows.isEmpty());
    return StreamSupport.stream(rows.spliterator(), false)
        .map(JsonElement::getAsJsonObject)
        .map(row -> DynamicTest.dynamicTest(row.get("name").getAsString(), () -> test.accept(row)));
  }

  /** Compares JSON as the vectors say: numbers as doubles, objects without an order. */
  private static void assertSame(JsonElement wanted, JsonElement found) {
    assertEquals(plain(wanted), plain(found));
  }

  private static JsonElement plain(JsonElement value) {
    if (value.isJsonObject()) {
      JsonObject out = new JsonObject();
      value.getAsJsonObject().entrySet().forEach(one -> out.add(one.getKey(), plain(one.getValue())));
      return out;
    }
    if (value.isJsonArray()) {
      JsonArray out = new JsonArray();
      value.getAsJsonArray().forEach(one -> out.add(plain(one)));
      return out;
    }
    boolean number = value.isJsonPrimitive() && value.getAsJsonPrimitive().isNumber();
    return number ? new JsonPrimitive(value.getAsDouble()) : value;
  }
}
