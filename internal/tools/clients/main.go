// Command clients is what scripts/compare-clients.sh needs beside the programs that it tries: a registry in a network
// namespace of its own.
//
//	clients DIR ADDRESS SECURE-ADDRESS
//
// turns the loopback device on, serves the registry whose content is in DIR at ADDRESS, and by TLS at SECURE-ADDRESS, with a
// certificate that nobody signed, and ends with SIGTERM.
package main

import (
	"context"
	"fmt"
	"net"
	"net/http/httptest"
	"os"
	"os/signal"
	"syscall"

	"github.com/lazuli-project/lazuli/internal/registrytest"
)

func main() {
	if len(os.Args) != 4 {
		fmt.Fprintln(os.Stderr, "usage: clients DIR ADDRESS SECURE-ADDRESS")
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	if err := serve(ctx, os.Args[1], os.Args[2], os.Args[3]); err != nil {
		fmt.Fprintln(os.Stderr, "clients:", err)
		os.Exit(1)
	}
}

func serve(ctx context.Context, dir, address, secure string) error {
	if err := loopbackUp(); err != nil {
		return fmt.Errorf("turn the loopback device on: %w", err)
	}
	registry, err := registrytest.New(registrytest.Options{Dir: dir})
	if err != nil {
		return err
	}
	for _, a := range []string{address, secure} {
		listener, err := net.Listen("tcp", a)
		if err != nil {
			return err
		}
		server := httptest.NewUnstartedServer(registry)
		server.Listener.Close()
		server.Listener = listener
		if a == secure {
			server.StartTLS()
		} else {
			server.Start()
		}
		defer server.Close()
	}
	<-ctx.Done()
	return nil
}
