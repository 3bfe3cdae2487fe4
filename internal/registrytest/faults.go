package registrytest

import (
	"io"
	"net/http"
	"strconv"
	"strings"
)

// A Fault is something that goes wrong with some requests.
type Fault struct {
	// Method and Path choose requests: the method, and a part of the path. "" fits all.
	Method, Path string
	Skip         int // how many chosen requests are left alone first
	Times        int // how many are hit then; 0 means all

	// What happens, one of:

	Status     int    // answer with this status
	RetryAfter string // and this header
	CutAfter   int64  // break the connection after this many bytes of the body, if > 0
	CutUpload  int64  // take this many bytes of the request's body, then break the connection, if > 0
	Flip       bool   // turn a bit of the first byte of the body
	NoRange    bool   // answer with the whole object
	WrongRange bool   // answer with the range one byte further
	Stall      bool   // answer nothing
}

// Inject adds a fault. Faults are tried in the order in which they were added; the first that fits acts.
func (r *Registry) Inject(f Fault) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.faults = append(r.faults, &f)
	if f.Times == 0 {
		r.faults[len(r.faults)-1].Times = -1
	}
}

// ClearFaults removes all faults.
func (r *Registry) ClearFaults() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.faults = nil
}

// choose returns the fault for a request, or nil.
func (r *Registry) choose(req *http.Request) *Fault {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, f := range r.faults {
		if f.Method != "" && f.Method != req.Method || !strings.Contains(req.URL.Path, f.Path) || f.Times == 0 {
			continue
		}
		if f.Skip > 0 {
			f.Skip--
			continue
		}
		if f.Times > 0 {
			f.Times--
		}
		return f
	}
	return nil
}

// injected lets a fault act on a request and reports whether that was all.
func (r *Registry) injected(w *answer, req *http.Request) bool {
	f := r.choose(req)
	switch {
	case f == nil:
	case f.Status != 0:
		if f.RetryAfter != "" {
			w.Header().Set("Retry-After", f.RetryAfter)
		}
		fail(w, f.Status, "UNKNOWN", "injected fault")
		return true
	case f.Stall:
		<-req.Context().Done()
		return true
	case f.CutAfter > 0:
		w.cutAt = f.CutAfter
	case f.CutUpload > 0:
		req.Body = &cutBody{ReadCloser: req.Body, left: f.CutUpload}
		r.route(&nowhere{http.Header{}}, req)
		panic(http.ErrAbortHandler)
	case f.Flip:
		w.flip = true
	case f.NoRange:
		req.Header.Del("Range")
	case f.WrongRange:
		first, last, _ := strings.Cut(strings.TrimPrefix(req.Header.Get("Range"), "bytes="), "-")
		a, err1 := strconv.ParseInt(first, 10, 64)
		b, err2 := strconv.ParseInt(last, 10, 64)
		if err1 == nil && err2 == nil {
			req.Header.Set("Range", "bytes="+strconv.FormatInt(a+1, 10)+"-"+strconv.FormatInt(b+1, 10))
		}
	}
	return false
}

// cutBody is a request body that ends early.
type cutBody struct {
	io.ReadCloser
	left int64
}

func (b *cutBody) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, io.ErrUnexpectedEOF
	}
	n, err := b.ReadCloser.Read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	return n, err
}

// answer counts, slows, turns and cuts what is answered.
type answer struct {
	http.ResponseWriter
	registry *Registry
	req      *http.Request
	cutAt    int64 // -1 for never
	sent     int64
	flip     bool
}

func (a *answer) Write(p []byte) (int, error) {
	total := 0
	for len(p) > 0 {
		n := min(len(p), 16<<10)
		if a.cutAt >= 0 {
			if a.sent >= a.cutAt {
				_ = http.NewResponseController(a.ResponseWriter).Flush()
				panic(http.ErrAbortHandler)
			}
			n = min(n, int(a.cutAt-a.sent))
		}
		if err := a.registry.limit.wait(a.req.Context(), n); err != nil {
			return total, err
		}
		piece := p[:n]
		if a.flip && a.sent == 0 {
			piece = append([]byte{p[0] ^ 1}, p[1:n]...)
		}
		m, err := a.ResponseWriter.Write(piece)
		a.sent += int64(m)
		total += m
		a.registry.mu.Lock()
		a.registry.stats.Bytes += int64(m)
		a.registry.mu.Unlock()
		if err != nil {
			return total, err
		}
		p = p[n:]
	}
	return total, nil
}
