package registrytest

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
)

// upload is a blob that is being pushed.
type upload struct {
	mu     sync.Mutex // guards the rest; held while a piece is received
	repo   string
	size   int64
	writer pending
}

// serveBlob answers for blobs that exist.
func (r *Registry) serveBlob(w http.ResponseWriter, req *http.Request, repo string, d digest.Digest) {
	if err := d.Validate(); err != nil {
		fail(w, http.StatusBadRequest, "DIGEST_INVALID", "no digest")
		return
	}
	if !r.HasBlob(repo, d) {
		fail(w, http.StatusNotFound, "BLOB_UNKNOWN", "no such blob")
		return
	}
	switch req.Method {
	case http.MethodHead:
		r.serveContent(w, req, d)
	case http.MethodGet:
		r.mu.Lock()
		base := r.opts.RedirectTo
		r.mu.Unlock()
		if base == "" {
			r.serveContent(w, req, d)
			return
		}
		signature := r.id("signature")
		r.mu.Lock()
		r.signed[signature] = 0
		r.stats.Redirects++
		r.mu.Unlock()
		http.Redirect(w, req, fmt.Sprintf("%s/signed/%s?signature=%s", base, d, signature), http.StatusTemporaryRedirect)
	default:
		fail(w, http.StatusMethodNotAllowed, "UNSUPPORTED", "not with blobs")
	}
}

// serveSigned answers at redirect targets, which know nothing of tokens.
func (r *Registry) serveSigned(w http.ResponseWriter, req *http.Request) {
	signature := req.URL.Query().Get("signature")
	r.mu.Lock()
	uses, ok := r.signed[signature]
	r.signed[signature]++
	r.mu.Unlock()
	if req.Header.Get("Authorization") != "" {
		http.Error(w, "credentials were sent to another host", http.StatusBadRequest)
		return
	}
	if !ok || r.opts.RedirectUses > 0 && uses >= r.opts.RedirectUses {
		http.Error(w, "the link has expired", http.StatusForbidden)
		return
	}
	r.serveContent(w, req, digest.Digest(strings.TrimPrefix(req.URL.Path, "/signed/")))
}

func (r *Registry) serveContent(w http.ResponseWriter, req *http.Request, d digest.Digest) {
	f, err := r.blobs.open(d)
	if err != nil {
		fail(w, http.StatusNotFound, "BLOB_UNKNOWN", "no such blob")
		return
	}
	defer f.Close()
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Docker-Content-Digest", d.String())
	http.ServeContent(w, req, "", time.Time{}, f)
}

// serveUpload answers for pushes: POST begins one, PATCH adds a piece, GET tells how far it is, PUT ends, DELETE
// cancels it.
func (r *Registry) serveUpload(w http.ResponseWriter, req *http.Request, repo, id string) {
	if req.Method == http.MethodPost && id == "" {
		r.beginUpload(w, req, repo)
		return
	}
	r.mu.Lock()
	u := r.uploads[id]
	r.mu.Unlock()
	if u == nil || u.repo != repo {
		fail(w, http.StatusNotFound, "BLOB_UPLOAD_UNKNOWN", "no such upload")
		return
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	switch req.Method {
	case http.MethodGet:
		u.answer(w, id, http.StatusNoContent)
	case http.MethodPatch:
		r.receivePiece(w, req, id, u)
	case http.MethodPut:
		r.endUpload(w, req, id, u)
	case http.MethodDelete:
		r.forget(id)
		u.writer.abort()
		w.WriteHeader(http.StatusNoContent)
	default:
		fail(w, http.StatusMethodNotAllowed, "UNSUPPORTED", "not with uploads")
	}
}

func (r *Registry) beginUpload(w http.ResponseWriter, req *http.Request, repo string) {
	q := req.URL.Query()
	if d := digest.Digest(q.Get("mount")); d != "" && !r.opts.NoMount && r.HasBlob(q.Get("from"), d) {
		r.addBlob(repo, d)
		r.mu.Lock()
		r.stats.Mounts++
		r.mu.Unlock()
		w.Header().Set("Docker-Content-Digest", d.String())
		w.Header().Set("Location", "/v2/"+repo+"/blobs/"+d.String())
		w.WriteHeader(http.StatusCreated)
		return
	}
	id := r.id("upload")
	p, err := r.blobs.create(id)
	if err != nil {
		fail(w, http.StatusInternalServerError, "UNKNOWN", "no place")
		return
	}
	u := &upload{repo: repo, writer: p}
	r.mu.Lock()
	r.uploads[id] = u
	r.mu.Unlock()
	u.answer(w, id, http.StatusAccepted)
}

// answer tells how far an upload is. Location changes with each answer, as it does in real registries.
func (u *upload) answer(w http.ResponseWriter, id string, status int) {
	w.Header().Set("Location", fmt.Sprintf("%s?state=%d", uploadPath(u.repo, id), u.size))
	w.Header().Set("Range", fmt.Sprintf("0-%d", max(u.size-1, 0)))
	w.WriteHeader(status)
}

func (r *Registry) receivePiece(w http.ResponseWriter, req *http.Request, id string, u *upload) {
	if r.opts.NoPieces {
		fail(w, http.StatusMethodNotAllowed, "UNSUPPORTED", "no pieces")
		return
	}
	if cr := req.Header.Get("Content-Range"); cr != "" {
		var first, last int64
		if _, err := fmt.Sscanf(cr, "%d-%d", &first, &last); err != nil || first != u.size {
			u.answer(w, id, http.StatusRequestedRangeNotSatisfiable)
			return
		}
	}
	if err := r.receive(req.Body, u); err != nil {
		fail(w, http.StatusBadRequest, "BLOB_UPLOAD_INVALID", "body cut")
		return
	}
	u.answer(w, id, http.StatusAccepted)
}

// receive appends a body, of which the part that came stays when it is cut.
func (r *Registry) receive(body io.Reader, u *upload) error {
	n, err := io.Copy(u.writer, body)
	u.size += n
	r.mu.Lock()
	r.stats.Uploaded += n
	r.mu.Unlock()
	return err
}

func (r *Registry) endUpload(w http.ResponseWriter, req *http.Request, id string, u *upload) {
	d := digest.Digest(req.URL.Query().Get("digest"))
	if err := d.Validate(); err != nil {
		fail(w, http.StatusBadRequest, "DIGEST_INVALID", "no digest")
		return
	}
	if err := r.receive(req.Body, u); err != nil {
		fail(w, http.StatusBadRequest, "BLOB_UPLOAD_INVALID", "body cut")
		return
	}
	r.forget(id)
	if err := u.writer.commit(d); err != nil {
		status, code := http.StatusInternalServerError, "UNKNOWN"
		if errors.Is(err, errDigest) {
			status, code = http.StatusBadRequest, "DIGEST_INVALID"
		}
		fail(w, status, code, err.Error())
		return
	}
	r.addBlob(u.repo, d)
	if dk, ok := r.blobs.(*disk); ok {
		_ = dk.log(entry{Repo: u.repo, Blob: d})
	}
	r.mu.Lock()
	r.stats.Uploads++
	r.mu.Unlock()
	w.Header().Set("Docker-Content-Digest", d.String())
	w.Header().Set("Location", "/v2/"+u.repo+"/blobs/"+d.String())
	w.WriteHeader(http.StatusCreated)
}

func (r *Registry) forget(id string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.uploads, id)
}
