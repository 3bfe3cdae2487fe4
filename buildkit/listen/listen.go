//go:build linux

package listen

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"

	"github.com/containerd/containerd/v2/pkg/sys"
	"github.com/coreos/go-systemd/v22/activation"
	"github.com/moby/buildkit/cmd/buildkitd/config"
	"github.com/moby/buildkit/util/bklog"
)

// All listens at all addresses of a configuration: "unix://PATH", "tcp://HOST:PORT", "fd://". TLS is for tcp and fd.
func All(ctx context.Context, cfg config.GRPCConfig) ([]net.Listener, error) {
	if len(cfg.Address) == 0 {
		return nil, errors.New("no address to listen at")
	}
	tlsConfig, err := serverTLS(cfg.TLS)
	if err != nil {
		return nil, err
	}
	uid, gid := os.Getuid(), os.Getgid()
	if cfg.UID != nil {
		uid = *cfg.UID
	}
	if cfg.GID != nil {
		gid = *cfg.GID
	}
	listeners := make([]net.Listener, 0, len(cfg.Address))
	for _, addr := range cfg.Address {
		l, err := At(ctx, addr, uid, gid, tlsConfig)
		if err != nil {
			Close(listeners)
			return nil, fmt.Errorf("listen at %s: %w", addr, err)
		}
		if tlsConfig == nil && strings.HasPrefix(addr, "tcp://") {
			bklog.G(ctx).Warnf("TLS is not enabled for %s. enabling mutual TLS authentication is highly recommended", addr)
		}
		listeners = append(listeners, l)
	}
	return listeners, nil
}

// Close closes listeners.
func Close(listeners []net.Listener) {
	for _, l := range listeners {
		_ = l.Close() // maybe by its server already
	}
}

// At listens at "unix://PATH", "tcp://HOST:PORT", or "fd://", which is the socket that systemd hands over.
func At(ctx context.Context, addr string, uid, gid int, tlsConfig *tls.Config) (net.Listener, error) {
	scheme, where, ok := strings.Cut(addr, "://")
	if !ok {
		return nil, fmt.Errorf("it does not contain a scheme; you meant unix://%s?", addr)
	}
	switch scheme {
	case "unix":
		if tlsConfig != nil {
			bklog.G(ctx).Warnf("TLS is disabled for %s", addr)
		}
		return sys.GetLocalListener(where, uid, gid)
	case "tcp":
		l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", where)
		if err != nil || tlsConfig == nil {
			return l, err
		}
		return tls.NewListener(l, tlsConfig), nil
	case "fd":
		return inherited(where, tlsConfig)
	}
	return nil, fmt.Errorf("scheme %q: unix, tcp and fd are possible", scheme)
}

// inherited returns the first socket that systemd handed over.
func inherited(name string, tlsConfig *tls.Config) (net.Listener, error) {
	if name != "" {
		return nil, errors.New("a descriptor cannot be named: the first one is taken")
	}
	listeners, err := activation.Listeners()
	if err != nil {
		return nil, err
	}
	if len(listeners) == 0 {
		return nil, errors.New("no sockets found via socket activation: make sure the service was started by systemd")
	}
	Close(listeners[1:])
	if tlsConfig == nil {
		return listeners[0], nil
	}
	return tls.NewListener(listeners[0], tlsConfig), nil
}

// serverTLS returns nil where no certificate is configured.
func serverTLS(cfg config.TLSConfig) (*tls.Config, error) {
	if cfg.Cert == "" && cfg.Key == "" {
		return nil, nil
	}
	if cfg.Cert == "" || cfg.Key == "" {
		return nil, errors.New("you must specify key and cert file if one is specified")
	}
	pair, err := tls.LoadX509KeyPair(cfg.Cert, cfg.Key)
	if err != nil {
		return nil, fmt.Errorf("load the server's certificate: %w", err)
	}
	t := &tls.Config{Certificates: []tls.Certificate{pair}, NextProtos: []string{"h2"}, MinVersion: tls.VersionTLS12}
	if cfg.CA == "" {
		return t, nil
	}
	pem, err := os.ReadFile(cfg.CA)
	if err != nil {
		return nil, fmt.Errorf("load the certificates of clients' authorities: %w", err)
	}
	t.ClientCAs = x509.NewCertPool()
	if !t.ClientCAs.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("no certificate in %s", cfg.CA)
	}
	t.ClientAuth = tls.RequireAndVerifyClientCert
	return t, nil
}
