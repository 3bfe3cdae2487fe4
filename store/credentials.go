package store

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"

	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/credentials"
)

// credentialFile is a file of docker's format. Podman's may have keys for parts of a registry.
type credentialFile struct {
	path    string
	byRepos bool
}

// credentialFiles lists where credentials may be, in order of preference.
func credentialFiles(opts Options) []credentialFile {
	if opts.AuthFile != "" {
		return []credentialFile{{opts.AuthFile, true}}
	}
	env := opts.Env
	if env == nil {
		return nil
	}
	var files []credentialFile
	if f := env("REGISTRY_AUTH_FILE"); f != "" {
		files = append(files, credentialFile{f, true})
	}
	if d := env("XDG_RUNTIME_DIR"); d != "" {
		files = append(files, credentialFile{filepath.Join(d, "containers", "auth.json"), true})
	}
	switch config, home := env("DOCKER_CONFIG"), env("HOME"); {
	case config != "":
		files = append(files, credentialFile{filepath.Join(config, "config.json"), false})
	case home != "":
		files = append(files, credentialFile{filepath.Join(home, ".docker", "config.json"), false})
	}
	return files
}

// credential returns the function that finds the credentials of a registry. Files are read when a registry asks.
func credential(ref Ref, host string, opts Options) auth.CredentialFunc {
	if opts.Username != "" || opts.Password != "" {
		return auth.StaticCredential(host, auth.Credential{Username: opts.Username, Password: opts.Password})
	}
	return func(ctx context.Context, hostport string) (auth.Credential, error) {
		if hostport != host {
			return auth.EmptyCredential, nil
		}
		server := credentials.ServerAddressFromHostname(hostport)
		for _, f := range credentialFiles(opts) {
			c, err := f.find(ctx, ref, server)
			if err != nil {
				return auth.EmptyCredential, fmt.Errorf("credentials of %s in %s: %w: %w", ref.Host, f.path, ErrDenied, err)
			}
			if c != auth.EmptyCredential {
				return c, nil
			}
		}
		return auth.EmptyCredential, nil
	}
}

// find looks for the most specific key of containers-auth.json(5) first: HOST/NAMESPACE/REPO, HOST/NAMESPACE, HOST.
func (f credentialFile) find(ctx context.Context, ref Ref, server string) (auth.Credential, error) {
	if f.byRepos {
		keys, err := credentials.NewFileStore(f.path)
		if err != nil {
			return auth.EmptyCredential, err
		}
		for key := ref.Host + "/" + ref.Repo; strings.Contains(key, "/"); key = key[:strings.LastIndexByte(key, '/')] {
			if c, err := keys.Get(ctx, key); err == nil && c != auth.EmptyCredential {
				return c, nil
			}
		}
		if c, err := keys.Get(ctx, ref.Host); err == nil && c != auth.EmptyCredential {
			return c, nil
		}
	}
	s, err := credentials.NewStore(f.path, credentials.StoreOptions{})
	if err != nil {
		return auth.EmptyCredential, err
	}
	return s.Get(ctx, server)
}
