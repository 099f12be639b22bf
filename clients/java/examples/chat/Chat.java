import com.google.gson.Gson;
import com.google.gson.JsonArray;
import com.google.gson.JsonElement;
import com.google.gson.JsonObject;
import com.google.gson.JsonParseException;
import com.google.gson.JsonParser;
import dev.standpipe.client.Bundle;
import dev.standpipe.client.Session;
import dev.standpipe.client.StandpipeClient;
import dev.standpipe.client.StandpipeException;
import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.concurrent.atomic.AtomicReference;

/**
 * A conversation that Standpipe remembers, with any OpenAI-compatible model.
 *
 * <pre>
 * mvn -q package dependency:copy-dependencies -DoutputDirectory=target/lib
 * java -cp 'target/classes:target/lib/*' examples/chat/Chat.java --session chat-42 --subject anna "Where were we?"
 * </pre>
 *
 * <p>Each argument is a question; without arguments, each line of the standard input is. Standpipe is found by
 * STANDPIPE_TARGET, the model by OPENAI_BASE_URL, OPENAI_API_KEY and OPENAI_MODEL.
 */
public final class Chat {
  /** A model call ends after this, whatever it has said. */
  private static final Duration ANSWER = Duration.ofSeconds(60);

  // Version 2 is not offered over plaintext: some endpoints do not know how to decline it.
  private static final HttpClient HTTP = HttpClient.newBuilder().version(HttpClient.Version.HTTP_1_1).build();

  private Chat() {}

  /**
   * Answers all questions.
   *
   * @param arguments options and questions
   */
  public static void main(String[] arguments) {
    PrintStream out = new PrintStream(System.out, true, StandardCharsets.UTF_8);
    try {
      run(arguments, out);
    } catch (StandpipeException | IOException | IllegalArgumentException error) {
      System.err.println("chat: " + error.getClass().getSimpleName() + ": " + error.getMessage());
      System.exit(1);
    }
  }

  private static void run(String[] arguments, PrintStream out) throws IOException {
    String id = "chat";
    String subject = "someone";
    List<String> questions = new ArrayList<>();
    for (int at = 0; at < arguments.length; at++) {
      boolean valued = at + 1 < arguments.length;
      if (arguments[at].equals("--session") && valued) {
        id = arguments[++at];
      } else if (arguments[at].equals("--subject") && valued) {
        subject = arguments[++at];
      } else {
        questions.add(arguments[at]);
      }
    }
    try (StandpipeClient client = StandpipeClient.connect()) {
      Session session = client.session(id, subject);
      if (!questions.isEmpty()) {
        for (String question : questions) {
          out.println(answer(session, question));
        }
        return;
      }
      BufferedReader lines = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
      for (String line = lines.readLine(); line != null; line = lines.readLine()) {
        if (!line.isBlank()) {
          out.println(answer(session, line));
        }
      }
    }
  }

  private static String answer(Session session, String question) throws IOException {
    AtomicReference<String> said = new AtomicReference<>();
    session.turn(
        question,
        bundle -> {
          said.set(ask(bundle));
          return said.get();
        });
    return said.get();
  }

  private static String ask(Bundle bundle) throws IOException {
    String url = setting("OPENAI_BASE_URL").orElse("https://api.openai.com/v1").replaceAll("/+$", "");
    String model = setting("OPENAI_MODEL").orElse("gpt-4o");
    String body = new Gson().toJson(Map.of("model", model, "messages", JsonParser.parseString(bundle.toOpenAIJson())));
    HttpRequest.Builder request =
        HttpRequest.newBuilder(URI.create(url + "/chat/completions"))
            .timeout(ANSWER)
            .header("content-type", "application/json")
            .POST(HttpRequest.BodyPublishers.ofString(body));
    setting("OPENAI_API_KEY").ifPresent(key -> request.header("authorization", "Bearer " + key));
    HttpResponse<String> response;
    try {
      response = HTTP.send(request.build(), HttpResponse.BodyHandlers.ofString(StandardCharsets.UTF_8));
    } catch (InterruptedException interrupted) {
      Thread.currentThread().interrupt();
      throw new IOException("interrupted while the model thought", interrupted);
    }
    if (response.statusCode() != 200) {
      throw new IOException("the model's endpoint answered " + response.statusCode());
    }
    return text(response.body());
  }

  private static String text(String body) throws IOException {
    try {
      JsonArray choices = JsonParser.parseString(body).getAsJsonObject().getAsJsonArray("choices");
      JsonObject message = choices.get(0).getAsJsonObject().getAsJsonObject("message");
      JsonElement content = message.get("content");
      if (!content.getAsString().isEmpty()) {
        return content.getAsString();
      }
    } catch (JsonParseException | IllegalStateException | IndexOutOfBoundsException | NullPointerException
        | UnsupportedOperationException unexpected) {
      throw new IOException("the model's endpoint answered something else", unexpected);
    }
    throw new IOException("the model said nothing");
  }

  private static Optional<String> setting(String name) {
    return Optional.ofNullable(System.getenv(name)).filter(value -> !value.isEmpty());
  }
}
