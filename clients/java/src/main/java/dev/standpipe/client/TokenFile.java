package dev.standpipe.client;

import java.io.IOException;
import java.io.InputStream;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.attribute.BasicFileAttributes;
import java.nio.file.attribute.FileTime;
import java.util.ArrayList;
import java.util.List;
import java.util.regex.Pattern;

/**
 * A file whose first line is a bearer token; a second one, which a server may take as well, is left alone.
 *
 * <p>Kubernetes renews what it mounts by putting another directory behind a link, so a look at a file's key, size and
 * time tells, for some microseconds a call. A token is in no error, no log and no {@code toString} of this client.
 */
final class TokenFile {
  /** What is read of it. Real tokens have some 2 KiB, and gRPC's servers take 8 to 16 KiB of metadata. */
  static final int TOKEN_BYTES_MAX = 64 << 10;

  private static final Pattern TOKEN = Pattern.compile("[!-~]+");

  private final Path path;
  private volatile Reading known; // one field: threads never mix two readings

  private record Reading(List<Stamp> stamp, String authorization) {
    @Override
    public String toString() {
      return "***";
    }
  }

  /** What differs once a file was replaced or written; all null while there is none. */
  record Stamp(Object key, long size, FileTime time) {
    static List<Stamp> of(List<Path> paths) {
      List<Stamp> found = new ArrayList<>(paths.size());
      for (Path path : paths) {
        try {
          BasicFileAttributes about = Files.readAttributes(path, BasicFileAttributes.class);
          found.add(new Stamp(about.fileKey(), about.size(), about.lastModifiedTime()));
        } catch (IOException missing) {
          found.add(new Stamp(null, -1, null));
        }
      }
      return found;
    }
  }

  TokenFile(Path path) {
    this.path = path;
    this.known = new Reading(Stamp.of(List.of(path)), read());
  }

  /**
   * Returns "Bearer ..." of the file as it is now; {@code anew} reads it even if it looks as it did. A file that cannot
   * be read just now leaves the token in force: the server judges it.
   */
  String authorization(boolean anew) {
    Reading before = known;
    List<Stamp> stamp = Stamp.of(List.of(path));
    if (!anew && stamp.equals(before.stamp)) {
      return before.authorization;
    }
    try {
      Reading now = new Reading(stamp, read());
      known = now;
      return now.authorization;
    } catch (IllegalArgumentException unreadable) {
      return before.authorization;
    }
  }

  private String read() {
    byte[] bytes;
    try (InputStream file = Files.newInputStream(path)) {
      bytes = file.readNBytes(TOKEN_BYTES_MAX + 1);
    } catch (IOException error) {
      throw new IllegalArgumentException("tokenFile: " + path + " cannot be read", error);
    }
    String text = new String(bytes, StandardCharsets.ISO_8859_1).strip();
    String token = text.lines().findFirst().orElse("").strip();
    if (token.length() > TOKEN_BYTES_MAX || !TOKEN.matcher(token).matches()) {
      String rule = "a line of at most " + TOKEN_BYTES_MAX + " ASCII characters without blanks";
      throw new IllegalArgumentException("tokenFile: " + path + " must hold a token: " + rule);
    }
    return "Bearer " + token;
  }
}
