package dev.standpipe.client;

import java.time.Instant;

/**
 * A bundle that was served before, rendered again byte for byte (P7).
 *
 * @param bundle equal to what was served, except for the length of its omission list when all were asked for
 * @param servedAt when it was served
 * @param sessionId the session that it was served for
 * @param subjectId whose memory it recalled
 */
public record Replay(Bundle bundle, Instant servedAt, String sessionId, String subjectId) {}
