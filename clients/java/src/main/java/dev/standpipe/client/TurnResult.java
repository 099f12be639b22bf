package dev.standpipe.client;

/**
 * What {@link Session#turn} did.
 *
 * @param commit the turn
 * @param bundle what its answer was made from
 */
public record TurnResult(Commit commit, Bundle bundle) {}
