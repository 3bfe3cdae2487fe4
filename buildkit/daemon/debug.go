//go:build linux

package daemon

import (
	"context"
	"errors"
	"expvar"
	"fmt"
	"net/http"
	"net/http/pprof"
	"os"
	"runtime"
	"strings"
	"time"

	"github.com/moby/buildkit/solver"
	"github.com/moby/buildkit/util/bklog"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/net/trace"

	"github.com/lazuli-project/lazuli/buildkit/listen"
)

// serveDebug serves profiles, figures, requests, and what is in the build cache, until the returned function is called. Who reaches the
// address may use it.
func serveDebug(ctx context.Context, addr string, storage solver.CacheKeyStorage) (stop func(), err error) {
	m := http.NewServeMux()
	m.Handle("/debug/vars", expvar.Handler())
	m.HandleFunc("/debug/pprof/", pprof.Index)
	m.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
	m.HandleFunc("/debug/pprof/profile", pprof.Profile)
	m.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	m.HandleFunc("/debug/pprof/trace", pprof.Trace)
	trace.AuthRequest = func(*http.Request) (allowed, sensitive bool) { return true, true }
	m.HandleFunc("/debug/requests", trace.Traces)
	m.HandleFunc("/debug/events", trace.Events)
	m.HandleFunc("/debug/gc", func(_ http.ResponseWriter, r *http.Request) {
		runtime.GC()
		bklog.G(r.Context()).Debugf("triggered GC from debug endpoint")
	})
	m.Handle("/metrics", promhttp.Handler())
	(&cacheDebug{storage}).register(m)
	newFlightRecorder().register(m)

	if !strings.Contains(addr, "://") {
		addr = "tcp://" + addr
	}
	l, err := listen.At(ctx, addr, os.Getuid(), os.Getgid(), nil)
	if err != nil {
		return nil, fmt.Errorf("listen for debugging at %s: %w", addr, err)
	}
	s := &http.Server{Handler: m, ReadHeaderTimeout: time.Minute}
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			bklog.G(ctx).Errorf("no more debug handlers: %v", err)
		}
	}()
	return func() {
		_ = s.Close() // the process ends
		<-done
	}, nil
}
