package proxy

import (
	"context"
	"slices"
	"sync"
	"time"

	control "github.com/moby/buildkit/api/services/control"
	"github.com/opencontainers/go-digest"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/lazuli-project/lazuli/convert"
)

// builds are the builds whose outputs are, or will be, converted here, by the reference that the client gave them.
type builds struct {
	mu      sync.Mutex // guards what follows
	byRef   map[string]*build
	refused []refusal     // the last ones
	changed chan struct{} // closed, and replaced, with each refusal; nil before somebody waits
}

// refusal is why a build will never be.
type refusal struct {
	ref digest.Digest // of the reference, which is as long as clients like
	err error
}

// maxRefused is how many refused builds are known: those whose clients may make further calls for them only now.
const maxRefused = 100

// refuse notes that a build will never be.
func (b *builds) refuse(ref string, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.refused = append(b.refused[max(0, len(b.refused)-maxRefused+1):], refusal{digest.FromString(ref), err})
	if b.changed != nil {
		close(b.changed)
		b.changed = nil
	}
}

// accept notes that a build may be, whatever was refused under its reference.
func (b *builds) accept(ref string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	d := digest.FromString(ref)
	b.refused = slices.DeleteFunc(b.refused, func(r refusal) bool { return r.ref == d })
}

// awaitRefusal returns why a build is refused when it is, or was already; nil when ctx ends.
func (b *builds) awaitRefusal(ctx context.Context, ref string) error {
	d := digest.FromString(ref)
	for {
		b.mu.Lock()
		if i := slices.IndexFunc(b.refused, func(r refusal) bool { return r.ref == d }); i >= 0 {
			err := b.refused[i].err
			b.mu.Unlock()
			return err
		}
		if b.changed == nil {
			b.changed = make(chan struct{})
		}
		changed := b.changed
		b.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return nil
		}
	}
}

// unlessRefused makes a call for a build to the daemon. Of a build that is refused here the daemon never hears, and would wait for it some
// seconds, and the client with it: the call's context ends then, and refused says why.
func (b *builds) unlessRefused(ctx context.Context, ref string, call func(ctx context.Context) error) (refused, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	why := make(chan error, 1)
	go func() {
		err := b.awaitRefusal(ctx, ref)
		cancel()
		why <- err
	}()
	err = call(ctx)
	cancel()
	return <-why, err
}

// begin notes a build.
func (b *builds) begin(ref string) *build {
	n := &build{ref: ref, changed: make(chan struct{})}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.byRef == nil {
		b.byRef = make(map[string]*build)
	}
	b.byRef[ref] = n
	return n
}

// end notes that a build is over.
func (b *builds) end(n *build) {
	b.mu.Lock()
	if b.byRef[n.ref] == n {
		delete(b.byRef, n.ref)
	}
	b.mu.Unlock()
	n.tell(nil)
}

// find returns a build that is not over, or nil.
func (b *builds) find(ref string) *build {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.byRef[ref]
}

// build tells about its progress.
type build struct {
	ref string

	mu      sync.Mutex // guards what follows
	news    []*control.StatusResponse
	over    bool
	changed chan struct{} // closed, and replaced, with each change
}

// tell adds news; nil is the end.
func (b *build) tell(n *control.StatusResponse) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if n != nil {
		b.news = append(b.news, n)
	} else {
		b.over = true
	}
	close(b.changed)
	b.changed = make(chan struct{})
}

// follow calls fn for all news, from the first, until the build is over.
func (b *build) follow(ctx context.Context, fn func(*control.StatusResponse) error) error {
	for i := 0; ; {
		b.mu.Lock()
		news, over, changed := b.news[i:], b.over, b.changed
		b.mu.Unlock()
		for _, n := range news {
			if err := fn(n); err != nil {
				return err
			}
		}
		i += len(news)
		if len(news) > 0 {
			continue
		}
		if over {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// progressStep is how often a layer's progress is told.
const progressStep = 500 * time.Millisecond

// step is a piece of work that clients show as a line, with lines for its parts below.
type step struct {
	build  *build
	vertex control.Vertex

	mu    sync.Mutex           // guards what follows
	began map[string]time.Time // parts
	told  map[string]time.Time
}

// step begins one.
func (b *build) step(name string) *step {
	s := &step{build: b, began: make(map[string]time.Time), told: make(map[string]time.Time)}
	s.vertex.Digest = digest.FromString("lazuli " + b.ref + " " + name).String()
	s.vertex.Name = name
	s.vertex.Started = timestamppb.Now()
	s.send()
	return s
}

func (s *step) send() {
	v := control.Vertex{Digest: s.vertex.Digest, Name: s.vertex.Name, Started: s.vertex.Started, Completed: s.vertex.Completed, Error: s.vertex.Error}
	s.build.tell(&control.StatusResponse{Vertexes: []*control.Vertex{&v}})
}

// end ends the step, and returns err.
func (s *step) end(err error) error {
	s.vertex.Completed = timestamppb.Now()
	if err != nil {
		s.vertex.Error = err.Error()
	}
	s.send()
	return err
}

// part tells how much of a part is done, in bytes.
func (s *step) part(name string, done, total int64, over bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	if !over && now.Sub(s.told[name]) < progressStep {
		return
	}
	s.told[name] = now
	if s.began[name].IsZero() {
		s.began[name] = now
	}
	status := &control.VertexStatus{
		ID: name, Vertex: s.vertex.Digest, Current: done, Total: total, Timestamp: timestamppb.New(now), Started: timestamppb.New(s.began[name]),
	}
	if over {
		status.Completed = timestamppb.New(now)
	}
	s.build.tell(&control.StatusResponse{Statuses: []*control.VertexStatus{status}})
}

// warn shows a warning.
func (s *step) warn(text string) {
	s.build.tell(&control.StatusResponse{Warnings: []*control.VertexWarning{{Vertex: s.vertex.Digest, Level: 1, Short: []byte(text)}}})
}

// layer tells about a layer.
func (s *step) layer(p convert.Progress) {
	name := layerName(p)
	s.part(name, p.Done, p.Total, p.State != convert.Converting)
}
