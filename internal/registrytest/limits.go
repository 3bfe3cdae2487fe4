package registrytest

import (
	"context"
	"net/http"
	"strings"
	"sync"
	"time"
)

// limiter shares a rate among all who write, like a line does.
type limiter struct {
	rate int64      // bytes per second; 0 for no limit
	mu   sync.Mutex // guards free
	free time.Time  // when the line is free again
}

// pause is how long nothing goes over a line that counts as unused.
const pause = 20 * time.Millisecond

func newLimiter(rate int64) *limiter { return &limiter{rate: rate} }

// wait waits until n bytes have gone over the line.
func (l *limiter) wait(ctx context.Context, n int) error {
	if l.rate <= 0 {
		return nil
	}
	l.mu.Lock()
	now := time.Now()
	// Who slept longer than asked for, as timers do, makes up for it: only a pause is lost.
	if now.Sub(l.free) > pause {
		l.free = now
	}
	l.free = l.free.Add(time.Duration(n) * time.Second / time.Duration(l.rate))
	until := l.free
	l.mu.Unlock()
	timer := time.NewTimer(until.Sub(now))
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// giveToken answers at the token endpoint.
func (r *Registry) giveToken(w http.ResponseWriter, req *http.Request) {
	user, password, _ := req.BasicAuth()
	if req.Method == http.MethodPost {
		_ = req.ParseForm()
		user, password = req.Form.Get("username"), req.Form.Get("password")
	}
	if user != r.opts.Username || password != r.opts.Password {
		fail(w, http.StatusUnauthorized, "UNAUTHORIZED", "wrong credentials")
		return
	}
	token := r.id("token")
	r.mu.Lock()
	r.tokens[token] = 0
	r.stats.Tokens++
	r.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write([]byte(`{"token":"` + token + `"}`))
}

// authorized reports whether a request may pass, and answers it if not.
func (r *Registry) authorized(w http.ResponseWriter, req *http.Request) bool {
	if !r.opts.Token {
		return true
	}
	token := strings.TrimPrefix(req.Header.Get("Authorization"), "Bearer ")
	r.mu.Lock()
	uses, ok := r.tokens[token]
	if ok {
		r.tokens[token]++
	}
	r.mu.Unlock()
	if ok && (r.opts.TokenUses == 0 || uses < r.opts.TokenUses) {
		return true
	}
	scheme := "http"
	if req.TLS != nil {
		scheme = "https"
	}
	w.Header().Set("WWW-Authenticate", `Bearer realm="`+scheme+`://`+req.Host+`/token",service="registrytest"`)
	fail(w, http.StatusUnauthorized, "UNAUTHORIZED", "a token is needed")
	return false
}
