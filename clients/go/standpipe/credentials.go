package standpipe

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"io/fs"
	"os"
	"sync"

	"google.golang.org/grpc/credentials"
)

const (
	// tokenBytesMax is what is read of a token's file. Real tokens have some 2 KiB, and gRPC's servers take 8 to 16 KiB
	// of metadata.
	tokenBytesMax = 64 << 10

	// readingsMax is how often files are read that change meanwhile; a mount is swapped once a minute at most.
	readingsMax = 5
)

// A secret is a text that no format verb shows: not even of a struct that holds it, since it is behind a pointer.
type secret struct{ text *string }

// String returns stars.
func (secret) String() string { return "***" }

// GoString returns stars.
func (secret) GoString() string { return "***" }

func (s secret) reveal() string {
	if s.text == nil {
		return ""
	}
	return *s.text
}

// A stamp tells whether files were replaced or written since. Kubernetes renews what it mounts by putting another
// directory behind a link, so a look at what a path leads to tells, for some microseconds a call.
type stamp []os.FileInfo

func stampOf(paths ...string) stamp {
	found := make(stamp, len(paths))
	for at, path := range paths {
		if about, err := os.Stat(path); err == nil {
			found[at] = about
		}
	}
	return found
}

func (s stamp) equal(other stamp) bool {
	if len(s) != len(other) {
		return false
	}
	for at, one := range s {
		two := other[at]
		if (one == nil) != (two == nil) {
			return false
		}
		if one != nil && (!os.SameFile(one, two) || one.Size() != two.Size() || !one.ModTime().Equal(two.ModTime())) {
			return false
		}
	}
	return true
}

// A tokenFile is a file whose first line is a bearer token; a second one, which a server may take as well, is left
// alone.
type tokenFile struct {
	path string

	mu    sync.Mutex
	seen  stamp
	known secret
}

// openToken reads a token's file.
func openToken(path string) (*tokenFile, error) {
	seen := stampOf(path)
	known, err := bearer(path)
	if err != nil {
		return nil, err
	}
	return &tokenFile{path: path, seen: seen, known: known}, nil
}

// authorization returns "Bearer ..." of the file as it is now; anew reads it even if it looks as it did. A file that
// cannot be read just now leaves the token in force: the server judges it.
func (t *tokenFile) authorization(anew bool) secret {
	if t == nil {
		return secret{}
	}
	now := stampOf(t.path)
	t.mu.Lock()
	defer t.mu.Unlock()
	if anew || !now.equal(t.seen) {
		if found, err := bearer(t.path); err == nil {
			t.seen, t.known = now, found
		}
	}
	return t.known
}

func bearer(path string) (secret, error) {
	file, err := os.Open(path)
	if err != nil {
		return secret{}, invalid("token_file", "%s cannot be read: %s", path, causeOf(err))
	}
	defer file.Close()
	text, err := io.ReadAll(io.LimitReader(file, tokenBytesMax+1))
	if err != nil {
		return secret{}, invalid("token_file", "%s cannot be read: %s", path, causeOf(err))
	}
	line := bytes.TrimSpace(text)
	if end := bytes.IndexAny(line, "\r\n"); end >= 0 {
		line = bytes.TrimSpace(line[:end])
	}
	printable := len(line) > 0 && len(line) <= tokenBytesMax
	for _, char := range line {
		printable = printable && '!' <= char && char <= '~'
	}
	if !printable {
		const text = "%s must hold a token: a line of at most %d ASCII characters without blanks"
		return secret{}, invalid("token_file", text, path, tokenBytesMax)
	}
	found := "Bearer " + string(line)
	return secret{&found}, nil
}

// causeOf returns what a file's error says besides its path.
func causeOf(err error) string {
	var at *fs.PathError
	if errors.As(err, &at) {
		return at.Err.Error()
	}
	return err.Error()
}

// A tlsFiles is the certificates of those whom to trust and, where a server asks for one, an own certificate with its
// key.
type tlsFiles struct {
	caFile, certFile, keyFile string
	paths                     []string
	seen                      stamp
	// credentials are those of the files as they were when they were last found valid: for a new connection.
	credentials credentials.TransportCredentials
}

// openTLS returns what to speak TLS with; nil, for plaintext, if no file is named.
func openTLS(caFile, certFile, keyFile string) (*tlsFiles, error) {
	switch {
	case (certFile == "") != (keyFile == ""):
		return nil, invalid("cert_file", "and key_file come together: give both or neither")
	case certFile != "" && caFile == "":
		return nil, invalid("cert_file", "needs ca_file: whom to trust with it")
	case caFile == "":
		return nil, nil
	}
	files := &tlsFiles{caFile: caFile, certFile: certFile, keyFile: keyFile, paths: []string{caFile}}
	if certFile != "" {
		files.paths = append(files.paths, certFile, keyFile)
	}
	return files, files.read()
}

// renewed looks whether the files are others now, and valid: then there are new credentials.
//
// Files that do not fit together just now, since one of them was renewed before the other, are looked at again when the
// other follows; the credentials stay as they are until then.
func (f *tlsFiles) renewed() bool {
	return !stampOf(f.paths...).equal(f.seen) && f.read() == nil
}

// read reads all files as they are at one time.
func (f *tlsFiles) read() error {
	for range readingsMax {
		f.seen = stampOf(f.paths...)
		found, err := f.readOnce()
		if !stampOf(f.paths...).equal(f.seen) {
			continue
		}
		if err != nil {
			return err
		}
		f.credentials = found
		return nil
	}
	return invalid("ca_file", "and what comes with it change while they are read")
}

func (f *tlsFiles) readOnce() (credentials.TransportCredentials, error) {
	authorities, err := os.ReadFile(f.caFile)
	trusted := x509.NewCertPool()
	if err != nil || !trusted.AppendCertsFromPEM(authorities) {
		return nil, invalid("ca_file", "%s must hold certificates, as PEM", f.caFile)
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: trusted}
	if f.certFile != "" {
		pair, err := tls.LoadX509KeyPair(f.certFile, f.keyFile)
		if err != nil {
			const text = "%s and %s must be a certificate and its key, as PEM"
			return nil, invalid("cert_file", text, f.certFile, f.keyFile)
		}
		config.Certificates = []tls.Certificate{pair}
	}
	return credentials.NewTLS(config), nil
}
