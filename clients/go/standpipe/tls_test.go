package standpipe

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
)

// An authority signs certificates.
type authority struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
	pem         []byte
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "authority"},
		IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	raw, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := x509.ParseCertificate(raw)
	if err != nil {
		t.Fatal(err)
	}
	return &authority{certificate, key, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: raw})}
}

// issue returns a certificate and its key, as PEM, for 127.0.0.1 and for a client.
func (a *authority) issue(t *testing.T) (certificate, key []byte) {
	t.Helper()
	own, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	raw, err := x509.CreateCertificate(rand.Reader, template, a.certificate, &own.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	ownRaw, err := x509.MarshalECPrivateKey(own)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: raw}),
		pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: ownRaw})
}

// A server's certificate is checked, the client's is shown, and when the files change, later calls use the new ones.
func TestTLSFilesAreReadAgain(t *testing.T) {
	directory := t.TempDir()
	file := func(name string) string { return filepath.Join(directory, name) }
	write := func(name string, text []byte) {
		if err := os.WriteFile(file(name)+".next", text, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(file(name)+".next", file(name)); err != nil {
			t.Fatal(err)
		}
	}
	first, second := newAuthority(t), newAuthority(t)
	var config atomic.Pointer[tls.Config]
	serverOf := func(by *authority) {
		certificate, key := by.issue(t)
		pair, err := tls.X509KeyPair(certificate, key)
		if err != nil {
			t.Fatal(err)
		}
		trusted := x509.NewCertPool()
		trusted.AddCert(by.certificate)
		config.Store(&tls.Config{
			Certificates: []tls.Certificate{pair}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: trusted,
			NextProtos: []string{"h2"},
		})
	}
	serverOf(first)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := serve(t, listener, grpc.Creds(credentials.NewTLS(&tls.Config{
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return config.Load(), nil },
		NextProtos:         []string{"h2"},
	})))
	certificate, key := first.issue(t)
	write("ca", first.pem)
	write("cert", certificate)
	write("key", key)
	client := connected(t, listener.Addr().String(), WithCAFile(file("ca")), WithCertFile(file("cert"), file("key")))
	ask := func() error {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		_, err := client.ServerInfo(ctx)
		return err
	}
	opened := client.wire.line
	for range 2 {
		if err := ask(); err != nil {
			t.Fatal(err)
		}
	}
	if client.wire.line != opened {
		t.Error("the same files opened another connection")
	}

	// A call that is under way when the files change ends on its own connection, which is closed behind it.
	entered, leave := make(chan struct{}), make(chan struct{})
	served.plan("HydrateContext", func(context.Context) error {
		close(entered)
		<-leave
		return nil
	})
	under := make(chan error)
	go func() {
		_, err := client.Session("s").Hydrate(context.Background(), "")
		under <- err
	}()
	<-entered
	before := client.wire.line
	serverOf(second)
	certificate, key = second.issue(t)
	write("ca", second.pem)
	write("cert", certificate) // half a new pair: the old files stay in force
	if err := ask(); err != nil {
		t.Errorf("with half a pair: %v", err)
	}
	if client.wire.line != before {
		t.Error("half a pair opened a connection")
	}
	write("key", key)
	if err := ask(); err != nil {
		t.Errorf("with the new pair: %v", err)
	}
	if client.wire.line == before {
		t.Error("the new pair opened no connection")
	}
	close(leave)
	if err := <-under; err != nil {
		t.Errorf("under way: %v", err)
	}
	if before.calls != 0 || before.conn.GetState().String() != "SHUTDOWN" {
		t.Errorf("the old connection is %v with %d calls", before.conn.GetState(), before.calls)
	}

	stranger := connected(t, listener.Addr().String(), WithCAFile(file("ca")))
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if _, err := stranger.ServerInfo(ctx); err == nil {
		t.Error("without a certificate it was let in")
	}
	write("ca", first.pem)
	wrong := connected(t, listener.Addr().String(), WithCAFile(file("ca")))
	if _, err := wrong.ServerInfo(ctx); !errors.Is(err, ErrUnavailable) && !errors.Is(err, ErrDeadlineExceeded) {
		t.Errorf("a server that nobody vouches for: %v", err)
	}
}
