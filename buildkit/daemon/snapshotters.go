//go:build linux

package daemon

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/proxy"
	"github.com/containerd/containerd/v2/defaults"
	"github.com/containerd/containerd/v2/pkg/dialer"
	"github.com/containerd/containerd/v2/pkg/reference"
	"github.com/containerd/containerd/v2/plugins/snapshots/native"
	"github.com/containerd/containerd/v2/plugins/snapshots/overlay"
	"github.com/containerd/containerd/v2/plugins/snapshots/overlay/overlayutils"
	fuseoverlayfs "github.com/containerd/fuse-overlayfs-snapshotter/v2"
	stargzfs "github.com/containerd/stargz-snapshotter/fs"
	stargzconfig "github.com/containerd/stargz-snapshotter/fs/config"
	"github.com/containerd/stargz-snapshotter/fs/layer"
	"github.com/containerd/stargz-snapshotter/fs/source"
	remote "github.com/containerd/stargz-snapshotter/snapshot"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/util/bklog"
	"github.com/moby/buildkit/util/resolver"
	"github.com/moby/buildkit/worker/runc"
	"github.com/sirupsen/logrus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
)

// snapshotter returns what makes the snapshotter of the runc worker.
func (b *builder) snapshotter(ctx context.Context) (runc.SnapshotterFactory, error) {
	cfg := b.Config.Workers.OCI
	f := runc.SnapshotterFactory{Name: cfg.Snapshotter}
	if path := cfg.ProxySnapshotterPath; path != "" {
		if _, err := os.Stat(path); err != nil {
			return f, fmt.Errorf("socket of the snapshotter (without 'unix://'): %w", err)
		}
		f.New = func(string) (snapshots.Snapshotter, error) { return dialSnapshotter(path, cfg.Snapshotter) }
		return f, nil
	}
	if f.Name == "auto" {
		f.Name = bestSnapshotter(ctx, b.Config.Root)
	}
	switch f.Name {
	case "native":
		f.New = native.NewSnapshotter
	case "overlayfs":
		f.New = func(root string) (snapshots.Snapshotter, error) {
			return overlay.NewSnapshotter(root, overlay.AsynchronousRemove)
		}
	case "fuse-overlayfs":
		f.New = func(root string) (snapshots.Snapshotter, error) { return fuseoverlayfs.NewSnapshotter(root) }
	case "stargz":
		f.New = func(root string) (snapshots.Snapshotter, error) { return b.stargzSnapshotter(ctx, root) }
	default:
		return f, fmt.Errorf("snapshotter %q: auto, overlayfs, fuse-overlayfs, native and stargz are possible, and others by a socket", f.Name)
	}
	return f, nil
}

func bestSnapshotter(ctx context.Context, root string) string {
	name := "native"
	if err := overlayutils.Supported(root); err == nil {
		name = "overlayfs"
	} else if err2 := fuseoverlayfs.Supported(root); err2 == nil {
		name = "fuse-overlayfs"
	} else {
		bklog.G(ctx).Debugf("neither overlayfs (%v) nor fuse-overlayfs (%v) is possible in %s", err, err2, root)
	}
	bklog.G(ctx).Infof("auto snapshotter: using %s", name)
	return name
}

// dialSnapshotter returns the snapshotter that serves at a socket.
func dialSnapshotter(path, name string) (snapshots.Snapshotter, error) {
	wait := backoff.DefaultConfig
	wait.MaxDelay = 3 * time.Second
	conn, err := grpc.NewClient(dialer.DialAddress(path),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: wait}),
		grpc.WithContextDialer(dialer.ContextDialer),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(defaults.DefaultMaxRecvMsgSize), grpc.MaxCallSendMsgSize(defaults.DefaultMaxSendMsgSize)),
	)
	if err != nil {
		return nil, fmt.Errorf("dial the snapshotter at %s: %w", path, err)
	}
	return proxy.NewSnapshotter(snapshotsapi.NewSnapshotsClient(conn), name), nil
}

// stargzSnapshotter returns the lazy snapshotter of eStargz images.
func (b *builder) stargzSnapshotter(ctx context.Context, root string) (snapshots.Snapshotter, error) {
	var cfg stargzconfig.Config
	if err := recode(b.Config.Workers.OCI.StargzSnapshotterConfig, &cfg); err != nil {
		return nil, fmt.Errorf("stargzSnapshotter: %w", err)
	}
	opaque := layer.OverlayOpaqueTrusted
	if user, err := overlayutils.NeedsUserXAttr(root); err != nil {
		bklog.G(ctx).WithError(err).Warn("it is not known whether overlayfs needs user.* attributes")
	} else if user {
		opaque = layer.OverlayOpaqueUser
	}
	fs, err := stargzfs.NewFilesystem(filepath.Join(root, "stargz"), cfg,
		stargzfs.WithGetSources(stargzSources(b.hosts, b.sessions)),
		stargzfs.WithMetricsLogLevel(logrus.DebugLevel),
		stargzfs.WithOverlayOpaqueType(opaque),
	)
	if err != nil {
		return nil, err
	}
	return remote.NewSnapshotter(ctx, filepath.Join(root, "snapshotter"), fs, remote.AsynchronousRemove, remote.NoRestore)
}

// Labels by which BuildKit tells the stargz snapshotter where a layer is; a name of the candidate stands behind each.
const (
	labelStargzRef     = "containerd.io/snapshot/remote/stargz.reference"
	labelStargzDigest  = "containerd.io/snapshot/remote/stargz.digest"
	labelStargzLayers  = "containerd.io/snapshot/remote/stargz.layers"
	labelStargzSession = "containerd.io/snapshot/remote/stargz.session" // with a number before the name
)

// stargzSources finds the layers of labels, with the credentials of the sessions that they name.
func stargzSources(hosts docker.RegistryHosts, sessions *session.Manager) source.GetSources {
	return func(labels map[string]string) ([]source.Source, error) {
		var list []source.Source
		for key, ref := range labels {
			name, ok := strings.CutPrefix(key, labelStargzRef+".")
			if !ok {
				continue
			}
			spec, err := reference.Parse(ref)
			if err != nil {
				continue // other candidates may do
			}
			var ids []string
			for i := 0; ; i++ {
				id, ok := labels[labelStargzSession+"."+strconv.Itoa(i)+"."+name]
				if !ok {
					break
				}
				ids = append(ids, id)
			}
			find := source.FromDefaultLabels(func(r reference.Spec) ([]docker.RegistryHost, error) {
				return resolver.DefaultPool.GetResolver(hosts, spec.String(), resolver.ScopeType{}, sessions, session.NewGroup(ids...)).HostsFunc(r.Hostname())
			})
			found, err := find(map[string]string{
				labelStargzRef: ref, labelStargzDigest: labels[labelStargzDigest+"."+name], labelStargzLayers: labels[labelStargzLayers+"."+name],
			})
			if err == nil {
				list = append(list, found...)
			}
		}
		return list, nil
	}
}
