/**
 * Who calls: a bearer token and certificates, from files that are read again when they change.
 *
 * Kubernetes renews what it mounts by putting another directory behind a link, so a look at a file's inode and time
 * tells, for some microseconds a call. A token is in no error, no log and no property that `inspect` shows.
 */

import { X509Certificate } from "node:crypto";
import { closeSync, openSync, readFileSync, readSync, statSync } from "node:fs";
import { createSecureContext } from "node:tls";
import { credentials, type ChannelCredentials } from "@grpc/grpc-js";

/** What is read of a token's file. Real tokens have some 2 KiB, and gRPC's servers take 8 to 16 KiB of metadata. */
const TOKEN_BYTES_MAX = 64 << 10;

/** Of files that change while they are read; a mount is swapped once a minute at most. */
const READINGS_MAX = 5;

const CERTIFICATE = /-----BEGIN CERTIFICATE-----[^-]*-----END CERTIFICATE-----/g;

/** A file that is missing or does not hold what it must; `field` is the argument that named it. */
export class FileInvalid extends Error {
  static {
    this.prototype.name = "FileInvalid";
  }

  readonly field: string;

  constructor(message: string, field: string) {
    super(`${field}: ${message}`);
    this.field = field;
  }
}

/** A file whose first line is a bearer token; a second one, which a server may take as well, is left alone. */
export class TokenFile {
  readonly #path: string;
  #stamp: string;
  #authorization: string;

  /** Read it. Throws FileInvalid. */
  constructor(path: string) {
    this.#path = path;
    this.#stamp = stampOf([path]);
    this.#authorization = bearer(path);
  }

  /**
   * Return "Bearer ..." of the file as it is now; `anew` reads it even if it looks as it did.
   *
   * A file that cannot be read just now leaves the token in force: the server judges it.
   */
  authorization(anew = false): string {
    const stamp = stampOf([this.#path]);
    if (anew || stamp !== this.#stamp) {
      try {
        this.#authorization = bearer(this.#path);
        this.#stamp = stamp;
      } catch (error) {
        if (!(error instanceof FileInvalid)) {
          throw error;
        }
      }
    }
    return this.#authorization;
  }
}

/** The certificates of those whom to trust, and, where a server asks for one, an own certificate with its key. */
export class TlsFiles {
  readonly #caFile: string;
  readonly #certFile: string;
  readonly #keyFile: string;
  readonly #paths: readonly string[];
  #seen = "";
  #credentials: ChannelCredentials;

  /** Read them, all as PEM; `certFile` and `keyFile` come together. Throws FileInvalid. */
  constructor(caFile: string, certFile: string, keyFile: string) {
    this.#caFile = caFile;
    this.#certFile = certFile;
    this.#keyFile = keyFile;
    this.#paths = [caFile, certFile, keyFile].filter((path) => path !== "");
    this.#credentials = this.#read();
  }

  /** Those of the files as they were when they were last found valid: for a new channel. */
  get credentials(): ChannelCredentials {
    return this.#credentials;
  }

  /**
   * Look whether the files are others now, and valid: then there are new `credentials`.
   *
   * Files that do not fit together just now, since one of them was renewed before the other, are looked at again when
   * the other follows; `credentials` stay as they are until then.
   */
  renewed(): boolean {
    if (stampOf(this.#paths) === this.#seen) {
      return false;
    }
    try {
      this.#credentials = this.#read();
    } catch (error) {
      if (error instanceof FileInvalid) {
        return false;
      }
      throw error;
    }
    return true;
  }

  /** Read all files as they are at one time. */
  #read(): ChannelCredentials {
    for (let reading = 0; reading < READINGS_MAX; reading += 1) {
      this.#seen = stampOf(this.#paths);
      let found: ChannelCredentials;
      try {
        found = this.#readOnce();
      } catch (error) {
        if (stampOf(this.#paths) === this.#seen) {
          throw error;
        }
        continue;
      }
      if (stampOf(this.#paths) === this.#seen) {
        return found;
      }
    }
    throw new FileInvalid("what it names changes while it is read", "caFile");
  }

  #readOnce(): ChannelCredentials {
    let authorities: Buffer;
    try {
      authorities = readFileSync(this.#caFile);
      const found = authorities.toString("latin1").match(CERTIFICATE) ?? [];
      if (found.map((pem) => new X509Certificate(pem)).length === 0) {
        throw new Error("no certificates");
      }
    } catch {
      throw new FileInvalid(`${this.#caFile} must hold certificates, as PEM`, "caFile");
    }
    if (this.#certFile === "") {
      return credentials.createSsl(authorities);
    }
    try {
      const [cert, key] = [readFileSync(this.#certFile), readFileSync(this.#keyFile)];
      createSecureContext({ cert, key });
      return credentials.createSsl(authorities, key, cert);
    } catch {
      const text = `${this.#certFile} and ${this.#keyFile} must be a certificate and its key, as PEM`;
      throw new FileInvalid(text, "certFile");
    }
  }
}

/** Return what to speak TLS with; undefined, for plaintext, if no file is named. Throws TypeError and FileInvalid. */
export function tls(caFile: string, certFile: string, keyFile: string): TlsFiles | undefined {
  if ((certFile === "") !== (keyFile === "")) {
    throw new TypeError("give both certFile and keyFile, or neither");
  }
  if (certFile !== "" && caFile === "") {
    throw new TypeError("certFile needs caFile: whom to trust with it");
  }
  return caFile === "" ? undefined : new TlsFiles(caFile, certFile, keyFile);
}

/** Return what differs once any of the files was replaced or written. */
function stampOf(paths: readonly string[]): string {
  return paths
    .map((path) => {
      try {
        const { dev, ino, size, mtimeNs } = statSync(path, { bigint: true });
        return `${dev} ${ino} ${size} ${mtimeNs}`;
      } catch {
        return "";
      }
    })
    .join("\n");
}

function bearer(path: string): string {
  const field = "tokenFile";
  const head = Buffer.alloc(TOKEN_BYTES_MAX + 1);
  let length = 0;
  try {
    const file = openSync(path, "r");
    try {
      for (let read = -1; read !== 0 && length < head.length; length += read) {
        read = readSync(file, head, length, head.length - length, null);
      }
    } finally {
      closeSync(file);
    }
  } catch (error) {
    const cause = error instanceof Error && "code" in error ? String(error.code) : "no path";
    throw new FileInvalid(`${path} cannot be read: ${cause}`, field);
  }
  const token = head.toString("latin1", 0, length).trim().split(/\r\n|[\n\r]/)[0]?.trim() ?? "";
  if (token.length > TOKEN_BYTES_MAX || !/^[!-~]+$/.test(token)) {
    const text = `${path} must hold a token: a line of at most ${TOKEN_BYTES_MAX} ASCII characters without blanks`;
    throw new FileInvalid(text, field);
  }
  return `Bearer ${token}`;
}
