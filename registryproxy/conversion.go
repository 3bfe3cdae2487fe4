package registryproxy

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/lazuli-project/lazuli/catalog"
	"github.com/lazuli-project/lazuli/convert"
	"github.com/lazuli-project/lazuli/store"
)

// State of a [Conversion].
type State string

// States.
const (
	Waiting State = "waiting"
	Running State = "running"
	Done    State = "done"
	Skipped State = "skipped" // nothing in it to convert, or pushed over meanwhile
	Failed  State = "failed"
)

// Conversion is what became of one push by one rule.
type Conversion struct {
	Repository string          `json:"repository"`
	Tag        string          `json:"tag"`
	Source     digest.Digest   `json:"source"`
	Formats    []string        `json:"formats"`
	Attach     convert.Attach  `json:"attach"`
	State      State           `json:"state"`
	Error      string          `json:"error,omitempty"`
	Made       []digest.Digest `json:"made,omitempty"` // manifests of images
	Seconds    float64         `json:"seconds"`        // of the conversion itself
}

// job is a conversion on its way.
type job struct {
	rule   *Rule
	push   push
	state  Conversion
	done   chan struct{} // closed at the end
	cancel context.CancelCauseFunc
}

// errPushedOver means that the tag was pushed anew before its last image was converted.
var errPushedOver = errors.New("the tag was pushed anew meanwhile")

// convert does the job.
func (p *Proxy) convert(ctx context.Context, j *job) (*convert.Result, error) {
	o := j.rule.Options
	o.CPU = p.cpu
	writers, err := catalog.NewWriters(j.rule.Formats, o)
	if err != nil {
		return nil, err
	}
	so := p.opt.Store
	so.Authorization = j.push.authorization
	ref := store.Ref{Transport: store.Registry, Host: p.opt.Registry, Repo: j.push.repository, Digest: j.push.digest}
	src, err := store.OpenSource(ctx, ref, so)
	if err != nil {
		return nil, err
	}
	defer src.Close() // was only read
	outputs := make([]convert.Output, 0, len(writers))
	defer func() {
		for _, out := range outputs {
			_ = out.Target.Close() // committed, or of no use
		}
	}()
	for _, w := range writers {
		to := ref
		to.Digest, to.Tag = "", j.push.tag
		if suffix := j.rule.suffix(w.Name()); suffix != "" {
			to.Tag += suffix
		}
		target, err := store.OpenTarget(ctx, to, so)
		if err != nil {
			return nil, err
		}
		outputs = append(outputs, convert.Output{Writer: w, Target: target})
	}
	return convert.Convert(ctx, src, outputs, convert.Options{
		Attach: j.rule.Attach, Untagged: j.rule.Attach == convert.AttachReferrer, // the tag may name another image by now
		Platforms: j.rule.Platforms, Jobs: p.opt.Jobs, Record: p.opt.Record, OpenPlace: store.PlaceOpener(p.opt.Registry, so),
		Readers: catalog.LazyReaders(), TempDir: p.opt.TempDir,
	})
}

// finish notes how a job ended.
func (j *job) finish(res *convert.Result, err error, took time.Duration) {
	j.state.Seconds = took.Seconds()
	switch {
	case err == nil:
		j.state.State = Done
		for _, im := range res.Images {
			if !slices.Contains(j.state.Made, im.Desc.Digest) {
				j.state.Made = append(j.state.Made, im.Desc.Digest)
			}
		}
	case skipped(err):
		j.state.State, j.state.Error = Skipped, err.Error()
	default:
		j.state.State, j.state.Error = Failed, err.Error()
	}
}

// skipped reports whether an error means that there was nothing to do.
func skipped(err error) bool {
	return errors.Is(err, convert.ErrNothingToConvert) || errors.Is(err, errPushedOver)
}

// errLeft says which conversions were not done when the proxy ended.
func errLeft(jobs []*job) error {
	names := make([]string, len(jobs))
	for i, j := range jobs {
		names[i] = j.push.repository + ":" + j.push.tag
	}
	return fmt.Errorf("not converted; push again: %s", strings.Join(names, ", "))
}
