/**
 * Standpipe's Java client: fresh context for every model call, and every turn committed exactly once.
 *
 * <pre>{@code
 * try (StandpipeClient client = StandpipeClient.connect("unix:/run/standpipe/standpipe.sock")) {
 *   Session session = client.session("chat-42", "anna");
 *   Bundle bundle = session.hydrate("Where did we leave off?");
 *   String answer = model(bundle.toOpenAI());
 *   session.commit(List.of(user(bundle.query()), assistant(answer)), bundle);
 * }
 * }</pre>
 *
 * <p>Every call may throw a {@link dev.standpipe.client.StandpipeException}; each method names those that a caller will
 * want to handle. What the generated classes of {@code dev.standpipe.v1} say is not said again here: where a method
 * takes or returns one of them, their comments are the reference.
 */
package dev.standpipe.client;
