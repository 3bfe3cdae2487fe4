package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"

	"github.com/spf13/pflag"
	"golang.org/x/term"

	"github.com/lazuli-project/lazuli/store"
)

// storeFlags are the flags of one side of a transfer.
type storeFlags struct {
	plainHTTP, insecure bool
	ca, cert, key       string
	creds, authFile     string
	containerd          containerdFlags

	// What other programs' command lines have beside these.
	certDirs, cas []string
	clients       []store.ClientCert
	// openTarget opens targets; nil for [store.OpenTarget].
	openTarget func(ctx context.Context, ref store.Ref, opts store.Options) (store.Target, error)
	onRequest  func(store.RequestInfo)
}

// add registers the flags with a prefix before their names.
func (s *storeFlags) add(f *pflag.FlagSet, prefix, side string) {
	f.BoolVar(&s.plainHTTP, prefix+"plain-http", false, "talk plain HTTP to "+side)
	f.BoolVar(&s.insecure, prefix+"insecure", false, "do not verify certificates of "+side)
	f.StringVar(&s.ca, prefix+"ca", "", "`FILE` with certificate authorities for "+side)
	f.StringVar(&s.cert, prefix+"cert", "", "`FILE` with a client certificate for "+side)
	f.StringVar(&s.key, prefix+"key", "", "`FILE` with the client certificate's key")
	f.StringVar(&s.creds, prefix+"creds", "", "`USER[:PASSWORD]` for "+side)
	f.StringVar(&s.authFile, prefix+"authfile", "", "credential `FILE` for "+side)
	s.containerd.add(f, prefix)
}

// addStoreFlags registers one set for both sides, and one for each.
func addStoreFlags(f *pflag.FlagSet) (both, src, dest *storeFlags) {
	both, src, dest = new(storeFlags), new(storeFlags), new(storeFlags)
	both.add(f, "", "registries")
	src.add(f, "src-", "the source's registry")
	dest.add(f, "dest-", "the target's registry")
	return both, src, dest
}

// over returns the flags of one side, with those of both sides where it has none of its own.
func (s *storeFlags) over(both *storeFlags) *storeFlags {
	m := *s
	m.plainHTTP = m.plainHTTP || both.plainHTTP
	m.insecure = m.insecure || both.insecure
	if m.ca == "" {
		m.ca = both.ca
	}
	if m.cert == "" {
		m.cert, m.key = both.cert, both.key
	}
	if m.creds == "" {
		m.creds = both.creds
	}
	if m.authFile == "" {
		m.authFile = both.authFile
	}
	m.containerd = m.containerd.over(both.containerd)
	return &m
}

// options makes the store's options of the flags. A missing password is asked for on a terminal.
func (a *app) storeOptions(s *storeFlags) (store.Options, error) {
	o := store.Options{
		PlainHTTP: s.plainHTTP, Insecure: s.insecure, CertDirs: s.certDirs, CAFiles: s.cas, Clients: s.clients, AuthFile: s.authFile,
		Env: os.Getenv, Proxy: http.ProxyFromEnvironment, UserAgent: "lazuli/" + version(), Stdin: a.stdin, Stdout: a.stdout, OnRequest: s.onRequest,
		Openers: map[store.Transport]store.Opener{store.Containerd: s.containerd.opener()},
	}
	if (s.cert == "") != (s.key == "") {
		return o, usagef("--cert and --key go together")
	}
	if s.cert != "" {
		o.Clients = append(o.Clients, store.ClientCert{CertFile: s.cert, KeyFile: s.key})
	}
	if s.ca != "" {
		o.CAFiles = append(o.CAFiles, s.ca)
	}
	if s.creds == "" {
		return o, nil
	}
	var given bool
	o.Username, o.Password, given = strings.Cut(s.creds, ":")
	if given {
		return o, nil
	}
	p, err := a.askPassword(o.Username)
	o.Password = p
	return o, err
}

func (a *app) askPassword(user string) (string, error) {
	in, ok := a.stdin.(*os.File)
	if !ok || !term.IsTerminal(int(in.Fd())) {
		return "", usagef("no password of %s given, and no terminal to ask for it", user)
	}
	fmt.Fprintf(a.stderr, "Password of %s: ", user)
	p, err := term.ReadPassword(int(in.Fd()))
	fmt.Fprintln(a.stderr)
	if err != nil {
		return "", fmt.Errorf("read the password: %w", err)
	}
	return string(p), nil
}

// parseRefs parses references.
func parseRefs(args ...string) ([]store.Ref, error) {
	refs := make([]store.Ref, len(args))
	for i, s := range args {
		r, err := store.Parse(s)
		if err != nil {
			return nil, &usageError{err}
		}
		refs[i] = r
	}
	return refs, nil
}

// openSides opens the source and the target of a transfer.
func (a *app) openSides(ctx context.Context, source, target string, srcFlags, destFlags *storeFlags) ([]store.Ref, store.Source, store.Target, error) {
	refs, err := parseRefs(source, target)
	if err != nil {
		return nil, nil, nil, err
	}
	src, err := a.openSource(ctx, refs[0], srcFlags)
	if err != nil {
		return nil, nil, nil, err
	}
	dest, err := a.openTarget(ctx, refs[1], destFlags)
	if err != nil {
		closeQuietly(src)
		return nil, nil, nil, err
	}
	return refs, src, dest, nil
}

func (a *app) openSource(ctx context.Context, ref store.Ref, flags *storeFlags) (store.Source, error) {
	o, err := a.storeOptions(flags)
	if err != nil {
		return nil, err
	}
	return store.OpenSource(ctx, ref, o)
}

func (a *app) openTarget(ctx context.Context, ref store.Ref, flags *storeFlags) (store.Target, error) {
	o, err := a.storeOptions(flags)
	if err != nil {
		return nil, err
	}
	if flags.openTarget != nil {
		return flags.openTarget(ctx, ref, o)
	}
	return store.OpenTarget(ctx, ref, o)
}

// closeQuietly closes what was only read from.
func closeQuietly(c io.Closer) { _ = c.Close() }
