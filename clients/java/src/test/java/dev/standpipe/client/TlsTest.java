package dev.standpipe.client;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import io.grpc.ServerCredentials;
import io.grpc.TlsServerCredentials;
import java.io.ByteArrayInputStream;
import java.io.IOException;
import java.io.InputStream;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.KeyStore;
import java.time.Duration;
import java.util.Arrays;
import java.util.Base64;
import java.util.List;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.api.io.TempDir;

/** Certificates, made by the JDK's keytool: each one signs itself, so that it is its own authority. */
@Timeout(60)
final class TlsTest {
  @TempDir private static Path store;
  private static Pair server;
  private static Pair newer;
  private static Pair rsa;
  private static Pair ec;

  private record Pair(String certificate, byte[] key) {
    String pem() {
      return TlsTest.pem("PRIVATE KEY", key);
    }

    /** Returns the key in its older form: what PKCS#8 wraps, its last field. */
    String older(String label) {
      for (int at = 20; at < 60; at++) {
        int length = inner(key, at);
        if (length > 0) {
          return TlsTest.pem(label, Arrays.copyOfRange(key, key.length - length, key.length));
        }
      }
      throw new IllegalStateException("no inner key");
    }

    /** Returns the length of the octets that begin at a place and end where the key ends; 0 if none do. */
    private static int inner(byte[] der, int at) {
      if (der[at] != 4) {
        return 0;
      }
      int octets = der[at + 1] & 0xff;
      int header = 2;
      if (octets == 0x82) {
        octets = (der[at + 2] & 0xff) << 8 | der[at + 3] & 0xff;
        header = 4;
      } else if (octets == 0x81) {
        octets = der[at + 2] & 0xff;
        header = 3;
      }
      return at + header + octets == der.length ? octets : 0;
    }
  }

  private static String pem(String label, byte[] der) {
    String body = Base64.getMimeEncoder(64, new byte[] {'\n'}).encodeToString(der);
    return "-----BEGIN " + label + "-----\n" + body + "\n-----END " + label + "-----\n";
  }

  private static Pair pair(String name, String... algorithm) throws Exception {
    Path file = store.resolve(name + ".p12");
    List<String> command =
        new java.util.ArrayList<>(
            List.of(
                Path.of(System.getProperty("java.home"), "bin", "keytool").toString(),
                "-genkeypair", "-alias", "one", "-keystore", file.toString(), "-storetype", "PKCS12",
                "-storepass", "password", "-dname", "CN=" + name, "-ext", "san=ip:127.0.0.1", "-ext", "bc=ca:true"));
    command.addAll(List.of(algorithm));
    Process keytool = new ProcessBuilder(command).redirectErrorStream(true).start();
    String said = new String(keytool.getInputStream().readAllBytes(), StandardCharsets.UTF_8);
    assertEquals(0, keytool.waitFor(), said);
    KeyStore keys = KeyStore.getInstance("PKCS12");
    try (InputStream in = Files.newInputStream(file)) {
      keys.load(in, "password".toCharArray());
    }
    byte[] key = keys.getKey("one", "password".toCharArray()).getEncoded();
    return new Pair(pem("CERTIFICATE", keys.getCertificate("one").getEncoded()), key);
  }

  @BeforeAll
  static void makeCertificates() throws Exception {
    server = pair("server", "-keyalg", "EC", "-groupname", "secp256r1");
    newer = pair("newer", "-keyalg", "EC", "-groupname", "secp256r1");
    rsa = pair("rsa", "-keyalg", "RSA", "-keysize", "2048");
    ec = pair("ec", "-keyalg", "EC", "-groupname", "secp256r1");
  }

  private static ServerCredentials credentials(Pair own, String clients) throws IOException {
    TlsServerCredentials.Builder builder =
        TlsServerCredentials.newBuilder().keyManager(stream(own.certificate), stream(own.pem()));
    if (!clients.isEmpty()) {
      builder.trustManager(stream(clients)).clientAuth(TlsServerCredentials.ClientAuth.REQUIRE);
    }
    return builder.build();
  }

  private static InputStream stream(String text) {
    return new ByteArrayInputStream(text.getBytes(StandardCharsets.UTF_8));
  }

  private static StandpipeClient.Builder builder(Path directory, ScriptedServer to) {
    return StandpipeClient.builder()
        .environment(name -> null)
        .target(to.target())
        .deadline(Duration.ofSeconds(20))
        .caFile(directory.resolve("ca.pem").toString());
  }

  private static void write(Path directory, String name, String text) throws IOException {
    Path next = Files.writeString(directory.resolve("next"), text);
    Files.move(next, directory.resolve(name), java.nio.file.StandardCopyOption.REPLACE_EXISTING);
  }

  /** Keys in every form that tools write are read, and shown to a server that asks for a certificate. */
  @Test
  void ownCertificatesOfEveryForm(@TempDir Path directory) throws Exception {
    try (ScriptedServer to = new ScriptedServer(credentials(server, rsa.certificate + ec.certificate))) {
      write(directory, "ca.pem", "A comment.\n" + server.certificate);
      try (StandpipeClient none = builder(directory, to).deadline(Duration.ofSeconds(1)).connect()) {
        assertThrows(StandpipeException.class, none::serverInfo);
      }
      Object[][] forms = {
        {rsa, rsa.pem()}, {ec, ec.pem()}, {rsa, rsa.older("RSA PRIVATE KEY")}, {ec, sec1(ec)},
      };
      for (Object[] form : forms) {
        write(directory, "cert.pem", ((Pair) form[0]).certificate);
        write(directory, "key.pem", (String) form[1]);
        try (StandpipeClient client =
            builder(directory, to)
                .certFile(directory.resolve("cert.pem").toString())
                .keyFile(directory.resolve("key.pem").toString())
                .connect()) {
          assertEquals("double", client.serverInfo().getVersion());
        }
      }
    }
  }

  /** Returns an EC key as OpenSSL writes it: with its curve, which PKCS#8 names outside. */
  private static String sec1(Pair pair) {
    byte[] bare = Base64.getMimeDecoder().decode(pair.older("X").replaceAll("-----[A-Z ]+-----", ""));
    byte[] curve = java.util.HexFormat.of().parseHex("a00a06082a8648ce3d030107");
    int octets = 2 + 3 + 2 + 32; // the sequence's header, the version, the key
    byte[] whole = Arrays.copyOf(bare, octets + curve.length);
    System.arraycopy(curve, 0, whole, octets, curve.length);
    whole[1] = (byte) (whole.length - 2);
    return pem("EC PRIVATE KEY", whole);
  }

  /** Certificates that are renewed on disk are taken by later calls; half a new pair is waited out. */
  @Test
  void certificatesAreReadAgain(@TempDir Path directory) throws Exception {
    try (ScriptedServer before = new ScriptedServer(credentials(server, rsa.certificate))) {
      write(directory, "ca.pem", server.certificate);
      write(directory, "cert.pem", rsa.certificate);
      write(directory, "key.pem", rsa.pem());
      try (StandpipeClient client =
          builder(directory, before)
              .certFile(directory.resolve("cert.pem").toString())
              .keyFile(directory.resolve("key.pem").toString())
              .connect()) {
        client.serverInfo();
        write(directory, "cert.pem", ec.certificate);
        client.serverInfo(); // the key is the old one's still
        write(directory, "key.pem", ec.pem());
        StandpipeClient hurried = client.withDeadline(Duration.ofSeconds(1));
        assertThrows(StandpipeException.class, hurried::serverInfo); // this server takes the old one alone
        write(directory, "key.pem", rsa.pem());
        write(directory, "cert.pem", rsa.certificate);
        client.serverInfo();
      }
    }
  }

  /** A server that another authority signed is not spoken to, until its certificate is among those to trust. */
  @Test
  void onlyThoseNamedAreTrusted(@TempDir Path directory) throws Exception {
    try (ScriptedServer to = new ScriptedServer(credentials(newer, ""))) {
      write(directory, "ca.pem", server.certificate);
      try (StandpipeClient client = builder(directory, to).connect()) {
        assertThrows(StandpipeException.class, () -> client.withDeadline(Duration.ofSeconds(1)).serverInfo());
        write(directory, "ca.pem", server.certificate + newer.certificate);
        assertEquals("double", client.serverInfo().getVersion());
      }
    }
  }

  /** A key of another certificate, or none, is refused when the client is made, and shown nowhere. */
  @Test
  void pairsMustFit(@TempDir Path directory) throws Exception {
    write(directory, "ca.pem", server.certificate);
    write(directory, "cert.pem", rsa.certificate);
    for (String key : List.of(server.pem(), ec.pem(), rsa.certificate, "", pem("PRIVATE KEY", new byte[] {0}))) {
      write(directory, "key.pem", key);
      StandpipeClient.Builder wrong =
          StandpipeClient.builder()
              .target("127.0.0.1:1")
              .caFile(directory.resolve("ca.pem").toString())
              .certFile(directory.resolve("cert.pem").toString())
              .keyFile(directory.resolve("key.pem").toString());
      var refused = assertThrows(IllegalArgumentException.class, wrong::connect);
      assertTrue(refused.getMessage().startsWith("certFile: "), refused.getMessage());
      assertFalse(refused.getMessage().contains("BEGIN"));
    }
  }
}
