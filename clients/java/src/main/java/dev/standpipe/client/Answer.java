package dev.standpipe.client;

/**
 * How an application answers a bundle: it asks its model.
 *
 * @param <T> the assistant's text, or the entries that follow the user's message
 * @param <E> what it may throw; comes out of the turn as it is
 */
@FunctionalInterface
public interface Answer<T, E extends Exception> {
  /**
   * Returns the answer. It may be asked again with a newer bundle, so it must do nothing that may not be done twice.
   *
   * @param bundle what the model should see
   * @return the answer
   * @throws E if there is none: then nothing is committed
   */
  T to(Bundle bundle) throws E;
}
