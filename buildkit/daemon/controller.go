//go:build linux

package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/moby/buildkit/cache/remotecache"
	"github.com/moby/buildkit/cache/remotecache/azblob"
	"github.com/moby/buildkit/cache/remotecache/gha"
	"github.com/moby/buildkit/cache/remotecache/inline"
	"github.com/moby/buildkit/cache/remotecache/local"
	"github.com/moby/buildkit/cache/remotecache/registry"
	"github.com/moby/buildkit/cache/remotecache/s3"
	"github.com/moby/buildkit/control"
	"github.com/moby/buildkit/frontend"
	dockerfile "github.com/moby/buildkit/frontend/dockerfile/builder"
	"github.com/moby/buildkit/frontend/gateway"
	"github.com/moby/buildkit/frontend/gateway/forwarder"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/solver"
	"github.com/moby/buildkit/solver/bboltcachestorage"
	"github.com/moby/buildkit/util/appdefaults"
	"github.com/moby/buildkit/util/db/boltutil"
	"github.com/moby/buildkit/util/resolver"
	"github.com/moby/buildkit/worker"
	policy "github.com/moby/policy-helpers"
	bolt "go.etcd.io/bbolt"
)

// builder puts the parts of a daemon together.
type builder struct {
	Options
	telemetry *telemetry
	stopping  <-chan struct{}

	sessions     *session.Manager
	hosts        docker.RegistryHosts
	workers      *worker.Controller
	cacheStorage solver.CacheKeyStorage
}

// controller returns what serves BuildKit's API.
func (b *builder) controller(ctx context.Context) (*control.Controller, error) {
	var err error
	if b.sessions, err = session.NewManager(); err != nil {
		return nil, err
	}
	b.hosts = resolver.NewRegistryConfig(b.Config.Registries)
	if err := b.telemetry.collectSpans(ctx, b.Config.OTEL.SocketPath); err != nil {
		return nil, err
	}
	if err := b.startWorkers(ctx); err != nil {
		return nil, err
	}
	w, err := b.workers.GetDefault()
	if err != nil {
		return nil, err
	}
	frontends, err := b.frontends()
	if err != nil {
		return nil, err
	}
	storage, err := bboltcachestorage.NewStore(filepath.Join(b.Config.Root, "cache.db"))
	if err != nil {
		return nil, fmt.Errorf("open the build cache: %w", err)
	}
	b.cacheStorage = storage
	history, err := boltutil.SafeOpen(filepath.Join(b.Config.Root, "history.db"), 0o600, &bolt.Options{FreelistType: bolt.FreelistMapType})
	if err != nil {
		return nil, fmt.Errorf("open the history of builds: %w", err)
	}
	exporters, importers := b.remoteCaches(w)
	environment, err := provenanceEnvironment(b.Config.ProvenanceEnvDir)
	if err != nil {
		return nil, err
	}
	entitlements := b.Config.Entitlements
	if !b.cdiDisabled() {
		entitlements = append(entitlements[:len(entitlements):len(entitlements)], "device")
	}
	return control.NewController(control.Opt{
		SessionManager:            b.sessions,
		WorkerController:          b.workers,
		Frontends:                 frontends,
		ResolveCacheExporterFuncs: exporters,
		ResolveCacheImporterFuncs: importers,
		CacheManager:              solver.NewCacheManager(context.WithoutCancel(ctx), "local", storage, worker.NewCacheResultStorage(b.workers)),
		Entitlements:              entitlements,
		TraceCollector:            b.telemetry.spans,
		MeterProvider:             b.telemetry.meter,
		HistoryDB:                 history,
		CacheStore:                storage,
		LeaseManager:              w.LeaseManager(),
		ContentStore:              w.ContentStore(),
		HistoryConfig:             b.Config.History,
		ProxyNetwork:              b.Config.ProxyNetwork,
		GarbageCollect:            w.GarbageCollect,
		GracefulStop:              b.stopping,
		ProvenanceEnv:             environment,
	})
}

// frontends returns those that are enabled.
func (b *builder) frontends() (map[string]frontend.Frontend, error) {
	enabled := func(v *bool) bool { return v == nil || *v }
	list := make(map[string]frontend.Frontend)
	if enabled(b.Config.Frontends.Dockerfile.Enabled) {
		list["dockerfile.v0"] = forwarder.NewGatewayForwarder(b.workers.Infos(), dockerfile.Build)
	}
	if enabled(b.Config.Frontends.Gateway.Enabled) {
		f, err := gateway.NewGatewayFrontend(b.workers.Infos(), b.Config.Frontends.Gateway.AllowedRepositories)
		if err != nil {
			return nil, fmt.Errorf("frontend gateway.v0: %w", err)
		}
		list["gateway.v0"] = f
	}
	return list, nil
}

// remoteCaches returns how caches are exported and imported, by their types.
func (b *builder) remoteCaches(w worker.Worker) (map[string]remotecache.ResolveCacheExporterFunc, map[string]remotecache.ResolveCacheImporterFunc) {
	cfg := b.Config.Cache.GHA
	var verifier func() (*policy.Verifier, error)
	if cfg != nil && cfg.Verify.Required {
		verifier = sync.OnceValues(func() (*policy.Verifier, error) {
			return policy.NewVerifier(policy.Config{StateDir: filepath.Join(b.Config.Root, "policy")})
		})
	}
	return map[string]remotecache.ResolveCacheExporterFunc{
			"registry": registry.ResolveCacheExporterFunc(b.sessions, b.hosts),
			"local":    local.ResolveCacheExporterFunc(b.sessions),
			"inline":   inline.ResolveCacheExporterFunc(),
			"gha":      gha.ResolveCacheExporterFunc(cfg, verifier),
			"s3":       s3.ResolveCacheExporterFunc(),
			"azblob":   azblob.ResolveCacheExporterFunc(),
		}, map[string]remotecache.ResolveCacheImporterFunc{
			"registry": registry.ResolveCacheImporterFunc(b.sessions, w.ContentStore(), b.hosts),
			"local":    local.ResolveCacheImporterFunc(b.sessions),
			"gha":      gha.ResolveCacheImporterFunc(cfg, verifier),
			"s3":       s3.ResolveCacheImporterFunc(),
			"azblob":   azblob.ResolveCacheImporterFunc(),
		}
}

// provenanceEnvironment reads what is added to the provenance of all builds: the JSON objects in the files of a directory.
func provenanceEnvironment(dir string) (map[string]any, error) {
	if dir == "" {
		dir = filepath.Join(appdefaults.ConfigDir, "provenance.d")
	}
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	env := make(map[string]any)
	for _, e := range entries {
		if e.IsDir() || !strings.HasSuffix(e.Name(), ".json") {
			continue
		}
		p, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			return nil, err
		}
		if err := json.Unmarshal(p, &env); err != nil {
			return nil, fmt.Errorf("read %s: %w", filepath.Join(dir, e.Name()), err)
		}
	}
	return env, nil
}
