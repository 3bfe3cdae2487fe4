package registryproxy

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"mime"
	"net/http"
	"regexp"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/lazuli-project/lazuli/convert"
	"github.com/lazuli-project/lazuli/store"
)

// maxManifest bounds manifests, in bytes, as registries do.
const maxManifest = 4 << 20

// manifestPath, and what repositories and tags look like: the distribution specification.
var (
	manifestPath   = regexp.MustCompile(`^/v2/(.+)/manifests/([^/]+)$`)
	repositoryName = regexp.MustCompile(`^[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*$`)
	tagName        = regexp.MustCompile(`^\w[\w.-]{0,127}$`)
	// fallbackTag is where referrers, signatures and the like of an image stand in registries without the referrers API.
	fallbackTag = regexp.MustCompile(`^sha(?:256|512)-[0-9a-f]{64,128}(?:\..+)?$`)
)

// longestRepository is the longest name of a repository, with room for a host, that references can have.
const longestRepository = 255

// pushKey is the key of a *push in a request's context.
type pushKey struct{}

// push is an image that is being pushed under a tag.
type push struct {
	repository, tag string
	digest          digest.Digest
	authorization   string
	wait            bool
}

// manifest forwards a manifest, and looks at it on its way.
func (p *Proxy) manifest(w http.ResponseWriter, r *http.Request) {
	raw, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxManifest))
	if err != nil {
		refuse(w, http.StatusRequestEntityTooLarge, "SIZE_INVALID", fmt.Sprintf("manifests have %d bytes at the most, and come whole", maxManifest))
		return
	}
	ctx := r.Context()
	if got := parsePush(r, raw); got != nil {
		ctx = context.WithValue(ctx, pushKey{}, got)
	}
	r = r.WithContext(ctx)
	r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(raw)), int64(len(raw))
	r.TransferEncoding = nil
	p.reverse.ServeHTTP(w, r)
}

// parsePush returns what is pushed if it is an image, or an index, under a tag that people give; else nil.
func parsePush(r *http.Request, raw []byte) *push {
	m := manifestPath.FindStringSubmatch(r.URL.Path)
	if m == nil || len(m[1]) > longestRepository || !repositoryName.MatchString(m[1]) || !tagName.MatchString(m[2]) || fallbackTag.MatchString(m[2]) {
		return nil
	}
	mediaType, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil || !store.IsImage(mediaType) && !store.IsIndex(mediaType) {
		return nil
	}
	var fields struct {
		ArtifactType string              `json:"artifactType"`
		Subject      *ocispec.Descriptor `json:"subject"`
	}
	if json.Unmarshal(raw, &fields) != nil || fields.Subject != nil || store.IsArtifact(ocispec.Descriptor{ArtifactType: fields.ArtifactType}) {
		return nil
	}
	return &push{
		repository: m[1], tag: m[2], digest: digest.FromBytes(raw), authorization: r.Header.Get("Authorization"),
		wait: strings.EqualFold(r.Header.Get(HeaderConvert), "wait"),
	}
}

// accepted converts a manifest that the registry took.
func (p *Proxy) accepted(resp *http.Response, got *push) {
	var jobs []*job
	for i := range p.opt.Rules {
		rule := &p.opt.Rules[i]
		if !rule.matches(got.repository, got.tag) {
			continue
		}
		j := &job{rule: rule, push: *got, done: make(chan struct{}), state: Conversion{
			Repository: got.repository, Tag: got.tag, Source: got.digest, Formats: rule.Formats, Attach: rule.Attach, State: Waiting,
		}}
		if !p.queue.add(j) {
			resp.Header.Add("Warning", `199 - "not converted: too many conversions wait, push again later"`)
			p.opt.Log.Error("not converted: too many conversions wait", "repository", got.repository, "tag", got.tag, "source", got.digest)
			continue
		}
		jobs = append(jobs, j)
	}
	if !got.wait {
		return
	}
	for _, j := range jobs {
		select {
		case <-j.done:
		case <-resp.Request.Context().Done():
			return
		}
		state := p.queue.state(j)
		outcome := string(state.State)
		for _, d := range state.Made {
			outcome += " " + d.String()
		}
		resp.Header.Add(HeaderConvert, outcome)
	}
}

// run does a job and logs its end.
func (p *Proxy) run(ctx context.Context, j *job) (*convert.Result, error) {
	ctx, cancel := context.WithTimeout(ctx, p.opt.Timeout)
	defer cancel()
	log := p.opt.Log.With("repository", j.push.repository, "tag", j.push.tag, "source", j.push.digest, "formats", j.rule.Formats, "attach", j.rule.Attach)
	log.Debug("converting")
	begin := time.Now()
	res, err := p.convert(ctx, j)
	switch {
	case err == nil:
		log.Info("converted", "images", len(res.Images), "seconds", time.Since(begin).Seconds())
	case skipped(err):
		log.Debug("not converted", "why", err)
	default:
		log.Error("not converted", "err", err)
	}
	return res, err
}
