package dev.standpipe.client;

import dev.standpipe.v1.EndSessionRequest;
import java.util.function.UnaryOperator;

/** How a session is ended. Immutable: every method returns another one. */
public final class EndOptions {
  private static final EndOptions NONE = new EndOptions(EndSessionRequest.getDefaultInstance());

  private final EndSessionRequest request;

  private EndOptions(EndSessionRequest request) {
    this.request = request;
  }

  /**
   * Returns options that end it at whatever version it is.
   *
   * @return the options
   */
  public static EndOptions create() {
    return NONE;
  }

  /**
   * Says why, for operators.
   *
   * @param cause at most 256 bytes
   * @return options with it
   */
  public EndOptions cause(String cause) {
    return with(request -> request.setCause(Entries.unicode("cause", cause)));
  }

  /**
   * Ends it only at this version.
   *
   * @param version the version
   * @return options with it
   */
  public EndOptions expectedVersion(long version) {
    return with(request -> request.setExpectedVersion(version));
  }

  /**
   * Ends it under this id, which counts once.
   *
   * @param id 1 to 128 characters of A-Z a-z 0-9 . _ : -
   * @return options with it
   */
  public EndOptions requestId(String id) {
    return with(request -> request.setRequestId(id));
  }

  EndSessionRequest.Builder request() {
    EndSessionRequest.Builder built = request.toBuilder();
    return built.getRequestId().isEmpty() ? built.setRequestId(CommitOptions.newId()) : built;
  }

  private EndOptions with(UnaryOperator<EndSessionRequest.Builder> change) {
    return new EndOptions(change.apply(request.toBuilder()).build());
  }
}
