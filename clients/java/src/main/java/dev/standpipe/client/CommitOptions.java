package dev.standpipe.client;

import dev.standpipe.v1.CommitMode;
import dev.standpipe.v1.CommitTurnRequest;
import dev.standpipe.v1.Fact;
import java.util.UUID;
import java.util.function.UnaryOperator;

/** How a turn is committed. Immutable: every method returns another one. */
public final class CommitOptions {
  private static final CommitOptions NONE = new CommitOptions(CommitTurnRequest.getDefaultInstance(), null);

  private final CommitTurnRequest request;
  private final Bundle bundle;

  private CommitOptions(CommitTurnRequest request, Bundle bundle) {
    this.request = request;
    this.bundle = bundle;
  }

  /**
   * Returns options that say nothing yet: a bundle, an expected version or {@link #append} is needed.
   *
   * @return the options
   */
  public static CommitOptions create() {
    return NONE;
  }

  /**
   * Names what the turn answers: its receipt is stored with the turn, and its version is the one that the turn follows.
   *
   * @param bundle as a hydrate returned it
   * @return options with it
   */
  public CommitOptions bundle(Bundle bundle) {
    return new CommitOptions(request, bundle);
  }

  /**
   * Says the version that the turn follows, whatever the bundle's is.
   *
   * @param version 0 for the first turn
   * @return options with it
   */
  public CommitOptions expectedVersion(long version) {
    return with(request -> request.setExpectedVersion(version));
  }

  /**
   * Goes behind whatever is there: for turns that hold true whatever was said meanwhile.
   *
   * @return options with it
   */
  public CommitOptions append() {
    return with(request -> request.setMode(CommitMode.COMMIT_MODE_APPEND));
  }

  /**
   * Commits under this id, which counts once; else a random one is made, which the channel's retries keep.
   *
   * @param id 1 to 128 characters of A-Z a-z 0-9 . _ : -
   * @return options with it
   */
  public CommitOptions requestId(String id) {
    return with(request -> request.setRequestId(id));
  }

  /**
   * Adds claims about the subject that are recorded with the turn, or not at all.
   *
   * @param facts at most 64 in all
   * @return options with them
   */
  public CommitOptions facts(Iterable<Fact> facts) {
    return with(request -> request.addAllFacts(facts));
  }

  CommitTurnRequest.Builder request() {
    CommitTurnRequest.Builder built = request.toBuilder();
    if (built.getMode() == CommitMode.COMMIT_MODE_UNSPECIFIED) {
      built.setMode(CommitMode.COMMIT_MODE_FAIL);
    }
    if (bundle != null) {
      built.getTurnBuilder().setBundleReceipt(bundle.receipt());
      if (!built.hasExpectedVersion() && built.getMode() == CommitMode.COMMIT_MODE_FAIL) {
        built.setExpectedVersion(bundle.version());
      }
    }
    return built.getRequestId().isEmpty() ? built.setRequestId(newId()) : built;
  }

  static String newId() {
    return UUID.randomUUID().toString().replace("-", "");
  }

  private CommitOptions with(UnaryOperator<CommitTurnRequest.Builder> change) {
    return new CommitOptions(change.apply(request.toBuilder()).build(), bundle);
  }
}
