package store

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// tlsConfig says whom to trust, and who we are. Authorities are trusted beside those of the system.
func tlsConfig(opts Options) (*tls.Config, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: opts.Insecure} //nolint:gosec // the user's choice
	authorities, clients := slices.Clone(opts.CAFiles), slices.Clone(opts.Clients)
	for _, dir := range opts.CertDirs {
		a, c, err := certificatesIn(dir)
		if err != nil {
			return nil, err
		}
		authorities, clients = append(authorities, a...), append(clients, c...)
	}
	if len(authorities) > 0 {
		pool, err := x509.SystemCertPool()
		if err != nil {
			pool = x509.NewCertPool()
		}
		for _, name := range authorities {
			pem, err := os.ReadFile(name)
			if err != nil {
				return nil, fileError("read certificate authorities", name, err)
			}
			if !pool.AppendCertsFromPEM(pem) {
				return nil, fmt.Errorf("certificate authorities %s: no certificate in it", name)
			}
		}
		config.RootCAs = pool
	}
	for _, c := range clients {
		cert, err := tls.LoadX509KeyPair(c.CertFile, c.KeyFile)
		if err != nil {
			return nil, fileError("read client certificate", c.CertFile+" with key "+c.KeyFile, err)
		}
		config.Certificates = append(config.Certificates, cert)
	}
	return config, nil
}

// certificatesIn lists the certificates of a directory; see Options.CertDirs. A key without certificate is somebody else's.
func certificatesIn(dir string) (authorities []string, clients []ClientCert, err error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, fileError("read directory of certificates", dir, err)
	}
	for _, e := range entries {
		name := filepath.Join(dir, e.Name())
		if strings.HasSuffix(name, ".crt") {
			authorities = append(authorities, name)
		}
		if base, ok := strings.CutSuffix(name, ".cert"); ok {
			clients = append(clients, ClientCert{name, base + ".key"})
		}
	}
	return authorities, clients, nil
}
