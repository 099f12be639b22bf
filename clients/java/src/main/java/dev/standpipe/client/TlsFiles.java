package dev.standpipe.client;

import io.grpc.ChannelCredentials;
import io.grpc.TlsChannelCredentials;
import java.io.ByteArrayInputStream;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.math.BigInteger;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.GeneralSecurityException;
import java.security.KeyFactory;
import java.security.KeyStore;
import java.security.PrivateKey;
import java.security.Signature;
import java.security.cert.Certificate;
import java.security.cert.CertificateFactory;
import java.security.spec.PKCS8EncodedKeySpec;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Base64;
import java.util.List;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import javax.net.ssl.KeyManagerFactory;
import javax.net.ssl.TrustManagerFactory;

/**
 * The certificates of those whom to trust, and, where a server asks for one, an own certificate with its key; all as
 * PEM.
 */
final class TlsFiles {
  /** Of files that change while they are read; a mount is swapped once a minute at most. */
  private static final int READINGS_MAX = 5;

  private static final Pattern PEM =
      Pattern.compile("-----BEGIN ([A-Z0-9 ]+)-----([A-Za-z0-9+/=\\s]+)-----END \\1-----");
  private static final char[] NO_PASSWORD = new char[0];

  /** The DER of version 0 and of the algorithm rsaEncryption, which wraps a key of PKCS#1 as PKCS#8. */
  private static final byte[] RSA = bytes("020100300d06092a864886f70d0101010500");

  /** The DER of the object identifier id-ecPublicKey. */
  private static final byte[] EC = bytes("06072a8648ce3d0201");

  private final Path caFile;
  private final Path certFile;
  private final Path keyFile;
  private final List<Path> paths = new ArrayList<>();
  private List<TokenFile.Stamp> seen;
  private ChannelCredentials credentials;

  /** Reads the files; {@code certFile} and {@code keyFile} are both null or neither. */
  TlsFiles(Path caFile, Path certFile, Path keyFile) {
    this.caFile = caFile;
    this.certFile = certFile;
    this.keyFile = keyFile;
    paths.add(caFile);
    if (certFile != null) {
      paths.add(certFile);
      paths.add(keyFile);
    }
    credentials = read();
  }

  /** Returns those of the files as they were when they were last found valid: for a new channel. */
  synchronized ChannelCredentials credentials() {
    return credentials;
  }

  /**
   * Looks whether the files are others now, and valid: then there are new credentials.
   *
   * <p>Files that do not fit together just now, since one of them was renewed before the other, are looked at again
   * when the other follows; the credentials stay as they are until then.
   */
  synchronized boolean renewed() {
    if (TokenFile.Stamp.of(paths).equals(seen)) {
      return false;
    }
    try {
      credentials = read();
      return true;
    } catch (IllegalArgumentException notYet) {
      return false;
    }
  }

  private ChannelCredentials read() {
    for (int reading = 0; reading < READINGS_MAX; reading++) {
      seen = TokenFile.Stamp.of(paths);
      try {
        ChannelCredentials found = readOnce();
        if (TokenFile.Stamp.of(paths).equals(seen)) {
          return found;
        }
      } catch (IllegalArgumentException invalid) {
        if (TokenFile.Stamp.of(paths).equals(seen)) {
          throw invalid;
        }
      }
    }
    throw new IllegalArgumentException("caFile: what it names changes while it is read");
  }

  private ChannelCredentials readOnce() {
    TlsChannelCredentials.Builder builder = TlsChannelCredentials.newBuilder();
    try {
      KeyStore trusted = store();
      for (Certificate certificate : certificates(caFile)) {
        trusted.setCertificateEntry("ca-" + trusted.size(), certificate);
      }
      TrustManagerFactory trust = TrustManagerFactory.getInstance(TrustManagerFactory.getDefaultAlgorithm());
      trust.init(trusted);
      builder.trustManager(trust.getTrustManagers());
    } catch (IOException | GeneralSecurityException error) {
      throw new IllegalArgumentException("caFile: " + caFile + " must hold certificates, as PEM", error);
    }
    if (certFile == null) {
      return builder.build();
    }
    try {
      List<Certificate> chain = certificates(certFile);
      PrivateKey key = key(keyFile, chain.get(0).getPublicKey().getAlgorithm());
      prove(key, chain.get(0));
      KeyStore own = store();
      own.setKeyEntry("own", key, NO_PASSWORD, chain.toArray(new Certificate[0]));
      KeyManagerFactory keys = KeyManagerFactory.getInstance(KeyManagerFactory.getDefaultAlgorithm());
      keys.init(own, NO_PASSWORD);
      builder.keyManager(keys.getKeyManagers());
    } catch (IOException | GeneralSecurityException error) {
      // Without the cause: what a parser says of a key is nobody's business.
      String rule = " must be a certificate and its key, as PEM without a password";
      throw new IllegalArgumentException("certFile: " + certFile + " and " + keyFile + rule);
    }
    return builder.build();
  }

  private static KeyStore store() throws IOException, GeneralSecurityException {
    KeyStore store = KeyStore.getInstance("PKCS12");
    store.load(null, NO_PASSWORD);
    return store;
  }

  private static List<Certificate> certificates(Path path) throws IOException, GeneralSecurityException {
    CertificateFactory factory = CertificateFactory.getInstance("X.509");
    List<Certificate> found = new ArrayList<>();
    Matcher blocks = PEM.matcher(Files.readString(path, StandardCharsets.ISO_8859_1));
    while (blocks.find()) {
      if (blocks.group(1).endsWith("CERTIFICATE")) {
        found.add(factory.generateCertificate(new ByteArrayInputStream(decode(blocks.group(2)))));
      }
    }
    if (found.isEmpty()) {
      throw new IOException("no certificate");
    }
    return found;
  }

  /**
   * Reads a key in any of the three forms that tools write: PKCS#8, and the older ones of RSA and of elliptic curves.
   */
  private static PrivateKey key(Path path, String algorithm) throws IOException, GeneralSecurityException {
    Matcher blocks = PEM.matcher(Files.readString(path, StandardCharsets.ISO_8859_1));
    while (blocks.find()) {
      byte[] der = decode(blocks.group(2));
      byte[] pkcs8 =
          switch (blocks.group(1)) {
            case "PRIVATE KEY" -> der;
            case "RSA PRIVATE KEY" -> der(0x30, RSA, der(0x04, der));
            case "EC PRIVATE KEY" -> der(0x30, new byte[] {2, 1, 0}, der(0x30, EC, curve(der)), der(0x04, der));
            default -> null;
          };
      if (pkcs8 != null) {
        return KeyFactory.getInstance(algorithm).generatePrivate(new PKCS8EncodedKeySpec(pkcs8));
      }
    }
    throw new IOException("no key");
  }

  private static void prove(PrivateKey key, Certificate certificate) throws GeneralSecurityException {
    String algorithm =
        switch (key.getAlgorithm()) {
          case "RSA" -> "SHA256withRSA";
          case "EC" -> "SHA256withECDSA";
          default -> key.getAlgorithm();
        };
    byte[] text = {1, 2, 3};
    Signature signature = Signature.getInstance(algorithm);
    signature.initSign(key);
    signature.update(text);
    byte[] signed = signature.sign();
    signature.initVerify(certificate);
    signature.update(text);
    if (!signature.verify(signed)) {
      throw new GeneralSecurityException("the key is another certificate's");
    }
  }

  /** Returns the curve of a key of RFC 5915: what its field [0] holds. */
  private static byte[] curve(byte[] key) throws IOException {
    try {
      int at = contents(key, 0); // into the sequence
      at = contents(key, at) + length(key, at); // behind the version
      at = contents(key, at) + length(key, at); // behind the key's octets
      if ((key[at] & 0xff) != 0xa0) {
        throw new IOException("the key names no curve");
      }
      return Arrays.copyOfRange(key, contents(key, at), contents(key, at) + length(key, at));
    } catch (IndexOutOfBoundsException truncated) {
      throw new IOException("the key is cut off", truncated);
    }
  }

  private static int contents(byte[] der, int at) {
    return at + 2 + ((der[at + 1] & 0x80) == 0 ? 0 : der[at + 1] & 0x7f);
  }

  private static int length(byte[] der, int at) {
    int start = contents(der, at);
    return start == at + 2 ? der[at + 1] : new BigInteger(1, Arrays.copyOfRange(der, at + 2, start)).intValue();
  }

  private static byte[] der(int tag, byte[]... parts) {
    ByteArrayOutputStream inner = new ByteArrayOutputStream();
    for (byte[] part : parts) {
      inner.writeBytes(part);
    }
    ByteArrayOutputStream out = new ByteArrayOutputStream();
    out.write(tag);
    if (inner.size() < 0x80) {
      out.write(inner.size());
    } else {
      byte[] size = BigInteger.valueOf(inner.size()).toByteArray();
      int from = size[0] == 0 ? 1 : 0;
      out.write(0x80 | (size.length - from));
      out.write(size, from, size.length - from);
    }
    out.writeBytes(inner.toByteArray());
    return out.toByteArray();
  }

  private static byte[] decode(String base64) throws IOException {
    try {
      return Base64.getMimeDecoder().decode(base64);
    } catch (IllegalArgumentException error) {
      throw new IOException("not base64", error);
    }
  }

  private static byte[] bytes(String hex) {
    return java.util.HexFormat.of().parseHex(hex);
  }
}
