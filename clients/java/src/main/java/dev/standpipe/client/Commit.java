package dev.standpipe.client;

import dev.standpipe.v1.FactResult;
import java.time.Instant;
import java.util.List;

/**
 * A turn that is durable (P1).
 *
 * @param version the version that it became
 * @param eventHash the hash of its event, in hexadecimal
 * @param token shows it to every hydrate that carries this token, through any pod (P4)
 * @param committedAt when the record store took it
 * @param replayed whether an earlier request with this id had already committed it (P3)
 * @param requestId the id that it was committed under
 * @param facts what became of the claims that were committed with it
 */
public record Commit(
    long version,
    String eventHash,
    String token,
    Instant committedAt,
    boolean replayed,
    String requestId,
    List<FactResult> facts) {}
