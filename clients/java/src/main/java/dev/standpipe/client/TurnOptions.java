package dev.standpipe.client;

/**
 * How a turn is done.
 *
 * @param attempts answers that are asked for before it gives up: each one is a model call
 * @param speaker the user's name; may be empty
 * @param hydrate what its hydrates ask for
 */
public record TurnOptions(int attempts, String speaker, HydrateOptions hydrate) {
  private static final TurnOptions DEFAULT = new TurnOptions(5, "", HydrateOptions.create());

  /**
   * Checks them.
   *
   * @param attempts at least 1
   * @param speaker may be empty
   * @param hydrate never null
   */
  public TurnOptions {
    if (attempts < 1) {
      throw new IllegalArgumentException("attempts must be at least 1");
    }
  }

  /**
   * Returns options of 5 attempts, without a speaker's name.
   *
   * @return the options
   */
  public static TurnOptions create() {
    return DEFAULT;
  }

  /**
   * Asks for so many answers at most.
   *
   * @param most at least 1
   * @return options with it
   */
  public TurnOptions attempts(int most) {
    return new TurnOptions(most, speaker, hydrate);
  }

  /**
   * Names the user.
   *
   * @param name shown instead of "user"
   * @return options with it
   */
  public TurnOptions speaker(String name) {
    return new TurnOptions(attempts, name, hydrate);
  }

  /**
   * Hydrates with these options.
   *
   * @param options of every hydrate of the turn
   * @return options with them
   */
  public TurnOptions hydrate(HydrateOptions options) {
    return new TurnOptions(attempts, speaker, options);
  }
}
