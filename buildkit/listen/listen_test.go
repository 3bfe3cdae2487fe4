//go:build linux

package listen

import (
	"crypto/tls"
	"crypto/x509"
	"net"
	"path/filepath"
	"testing"

	"github.com/moby/buildkit/cmd/buildkitd/config"

	"github.com/lazuli-project/lazuli/buildkit/internal/certtest"
)

func TestListenWithTLS(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	ca := certtest.WritePair(t, filepath.Join(dir, "ca"), "127.0.0.1", nil)
	certtest.WritePair(t, filepath.Join(dir, "server"), "127.0.0.1", ca)
	known := certtest.WritePair(t, filepath.Join(dir, "client"), "127.0.0.1", ca)
	unknown := certtest.WritePair(t, filepath.Join(dir, "unknown"), "127.0.0.1", nil)
	cfg := config.GRPCConfig{
		Address: []string{"tcp://127.0.0.1:0", "unix://" + filepath.Join(dir, "sock")},
		TLS:     config.TLSConfig{Cert: filepath.Join(dir, "server.pem"), Key: filepath.Join(dir, "server.key"), CA: filepath.Join(dir, "ca.pem")},
	}
	listeners, err := All(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer Close(listeners)
	roots := x509.NewCertPool()
	roots.AddCert(ca.Leaf)
	for name, c := range map[string]struct {
		pair *tls.Certificate
		want bool
	}{"known": {known, true}, "unknown": {unknown, false}, "none": {nil, false}} {
		served := make(chan error, 1)
		go func() {
			conn, err := listeners[0].Accept()
			if err == nil {
				err = conn.(*tls.Conn).HandshakeContext(t.Context())
				conn.Close()
			}
			served <- err
		}()
		client := &tls.Config{RootCAs: roots}
		if c.pair != nil {
			client.Certificates = []tls.Certificate{*c.pair}
		}
		conn, err := tls.Dial("tcp", listeners[0].Addr().String(), client)
		if err == nil {
			conn.Close()
		}
		if err := <-served; (err == nil) != c.want {
			t.Errorf("client with certificate %s: %v", name, err)
		}
	}
	// Sockets in the file system have their modes, and no TLS.
	conn, err := net.Dial("unix", filepath.Join(dir, "sock"))
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
}

func TestServerTLSRefuses(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	certtest.WritePair(t, filepath.Join(dir, "a"), "127.0.0.1", nil)
	certtest.WritePair(t, filepath.Join(dir, "b"), "127.0.0.1", nil)
	pemFile, keyFile := filepath.Join(dir, "a.pem"), filepath.Join(dir, "a.key")
	for name, c := range map[string]config.TLSConfig{
		"no key":            {Cert: pemFile},
		"no certificate":    {Key: keyFile},
		"another key":       {Cert: pemFile, Key: filepath.Join(dir, "b.key")},
		"authority missing": {Cert: pemFile, Key: keyFile, CA: filepath.Join(dir, "none")},
		"no authority":      {Cert: pemFile, Key: keyFile, CA: keyFile},
	} {
		if _, err := serverTLS(c); err == nil {
			t.Errorf("%s is taken", name)
		}
	}
	if c, err := serverTLS(config.TLSConfig{}); c != nil || err != nil {
		t.Errorf("nothing gives %v, %v", c, err)
	}
}

func TestInheritedRefuses(t *testing.T) {
	t.Parallel()
	if _, err := At(t.Context(), "fd://name", 0, 0, nil); err == nil {
		t.Error("a named descriptor is taken")
	}
	if _, err := At(t.Context(), "fd://", 0, 0, nil); err == nil {
		t.Error("nobody handed a socket over, and one is taken")
	}
}
