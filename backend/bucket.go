package backend

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
	"github.com/minio/minio-go/v7/pkg/signer"
	"github.com/opencontainers/go-digest"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/fetch"
	"github.com/lazuli-project/lazuli/formats"
)

// partSize is what is sent in one request, and so the memory of an upload. With the 10,000 parts that an object may have, it
// is enough for 160 GB.
const partSize = 16 << 20

// bucket is a bucket of an object store that speaks S3's protocol; that of Alibaba ("oss") does so too.
type bucket struct {
	client       *minio.Client
	name, prefix string
	base         *url.URL // of the bucket
	reader       fetch.RemoteOptions
	limits       fetch.Retry
}

func newBucket(kind string, c *config, o Options) (*bucket, error) {
	if c.Endpoint == "" || c.Bucket == "" {
		return nil, errors.New("configuration without endpoint or bucket_name")
	}
	if c.Scheme == "" {
		c.Scheme = "https"
	}
	if c.Scheme != "http" && c.Scheme != "https" {
		return nil, fmt.Errorf("scheme %q", c.Scheme)
	}
	// Alibaba takes buckets as parts of the host's name only.
	style, host, path := minio.BucketLookupPath, c.Endpoint, "/"+c.Bucket+"/"
	if kind == KindOSS {
		style, host, path = minio.BucketLookupDNS, c.Bucket+"."+c.Endpoint, "/"
	}
	opts := &minio.Options{Secure: c.Scheme == "https", Region: c.Region, BucketLookup: style}
	if c.KeyID != "" {
		opts.Creds = credentials.NewStaticV4(c.KeyID, c.Secret, "")
	}
	client, err := minio.New(c.Endpoint, opts)
	if err != nil {
		return nil, err
	}
	b := &bucket{client: client, name: c.Bucket, prefix: c.Prefix, base: &url.URL{Scheme: c.Scheme, Host: host, Path: path}, limits: o.Retry}
	region := c.Region
	if region == "" {
		region = "us-east-1"
	}
	b.reader = fetch.RemoteOptions{Client: &signing{id: c.KeyID, secret: c.Secret, region: region}, Counters: o.Counters, Retry: o.Retry}
	return b, nil
}

// signing signs requests with keys, if there are any.
type signing struct {
	client             http.Client
	id, secret, region string
}

// Do implements [fetch.Doer].
func (s *signing) Do(req *http.Request) (*http.Response, error) {
	if s.id != "" {
		req = req.Clone(req.Context())
		req.Header.Set("X-Amz-Content-Sha256", "UNSIGNED-PAYLOAD")
		req = signer.SignV4(*req, s.id, s.secret, "", s.region)
	}
	return s.client.Do(req)
}

// Open implements [Backend].
func (b *bucket) Open(ctx context.Context, id string) (blob.Source, error) {
	if err := checkID(id); err != nil {
		return nil, err
	}
	return openRemote(ctx, b.reader.Client, b.base.JoinPath(b.prefix+id), b.reader)
}

// Create implements [Backend]. What is written goes to an object with another name, which is copied at the store in the end: only then
// is the digest known.
func (b *bucket) Create(ctx context.Context) (formats.ObjectWriter, error) {
	r, pipe := io.Pipe()
	after := context.WithoutCancel(ctx)
	ctx, cancel := context.WithCancelCause(ctx)
	w := &bucketWriter{b: b, after: after, pipe: pipe, cancel: cancel, sum: sha256.New(), temporary: b.prefix + "lazuli-upload-" + rand.Text(), done: make(chan struct{})}
	go func() {
		defer close(w.done)
		_, w.err = b.client.PutObject(ctx, b.name, w.temporary, r, -1, minio.PutObjectOptions{PartSize: partSize, NumThreads: 1,
			ContentType: "application/octet-stream", DisableMultipart: false})
		w.err = b.classify(w.err)
		r.CloseWithError(w.err)
	}()
	return w, nil
}

// bucketWriter writes one object.
type bucketWriter struct {
	b         *bucket
	after     context.Context //nolint:containedctx // of what has to be done when all else is given up
	pipe      *io.PipeWriter
	cancel    context.CancelCauseFunc
	sum       hash.Hash
	size      int64
	temporary string
	done      chan struct{}
	err       error // of the upload, once done
	ended     bool
}

func (w *bucketWriter) Write(p []byte) (int, error) {
	n, err := w.pipe.Write(p)
	w.sum.Write(p[:n])
	w.size += int64(n)
	return n, err
}

// RunningSHA256 implements [formats.RunningDigest].
func (w *bucketWriter) RunningSHA256() (sum [sha256.Size]byte, ok bool) {
	w.sum.Sum(sum[:0])
	return sum, true
}

// maxCopy is the largest object that is copied in one request.
const maxCopy = 5 << 30

// Commit implements [formats.ObjectWriter].
func (w *bucketWriter) Commit(ctx context.Context) (digest.Digest, int64, error) {
	d := digest.NewDigest(digest.SHA256, w.sum)
	_ = w.pipe.Close() // never fails
	<-w.done
	w.ended = true
	defer w.cancel(nil)
	defer w.remove(context.WithoutCancel(ctx))
	if w.err != nil {
		return "", 0, fmt.Errorf("upload to bucket %s: %w", w.b.name, w.err)
	}
	to := minio.CopyDestOptions{Bucket: w.b.name, Object: w.b.prefix + d.Encoded()}
	from := minio.CopySrcOptions{Bucket: w.b.name, Object: w.temporary}
	var err error
	if w.size <= maxCopy {
		_, err = w.b.client.CopyObject(ctx, to, from)
	} else {
		_, err = w.b.client.ComposeObject(ctx, to, from)
	}
	if err != nil {
		return "", 0, fmt.Errorf("name %s in bucket %s: %w", d, w.b.name, w.b.classify(err))
	}
	return d, w.size, nil
}

// removeTimeout bounds the removal of an upload, which happens also when everything else is given up.
const removeTimeout = 30 * time.Second

// remove takes the upload away.
func (w *bucketWriter) remove(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, removeTimeout)
	defer cancel()
	_ = w.b.client.RemoveObject(ctx, w.b.name, w.temporary, minio.RemoveObjectOptions{}) // stays as rubbish where it is refused
}

// Abort implements [formats.ObjectWriter].
func (w *bucketWriter) Abort() {
	if w.ended {
		return
	}
	w.ended = true
	_ = w.pipe.CloseWithError(context.Canceled)
	w.cancel(context.Canceled)
	<-w.done
	if w.err == nil {
		w.remove(w.after)
	}
}

// classify tells errors apart as callers want it.
func (b *bucket) classify(err error) error {
	if err == nil {
		return nil
	}
	var r minio.ErrorResponse
	if !errors.As(err, &r) {
		return fmt.Errorf("%w: %w", fetch.ErrNetwork, err)
	}
	switch {
	case r.StatusCode == http.StatusNotFound || strings.HasPrefix(r.Code, "NoSuch"):
		return fmt.Errorf("%w: %w", fetch.ErrNotFound, err)
	case r.StatusCode == http.StatusForbidden || r.StatusCode == http.StatusUnauthorized:
		return fmt.Errorf("%w: %w", fetch.ErrDenied, err)
	}
	return fmt.Errorf("%w: %w", fetch.ErrNetwork, err)
}
