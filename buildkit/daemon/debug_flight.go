//go:build linux

package daemon

import (
	"fmt"
	"net/http"
	"sync"
	"time"

	"golang.org/x/exp/trace"
)

// flightRecorder keeps the last seconds of the runtime's trace.
type flightRecorder struct {
	mu       sync.Mutex // one change at a time
	recorder *trace.FlightRecorder
}

func newFlightRecorder() *flightRecorder { return &flightRecorder{recorder: trace.NewFlightRecorder()} }

func (r *flightRecorder) register(m *http.ServeMux) {
	m.HandleFunc("POST /debug/flight/trace/start", r.change(func(*http.Request) (int, error) {
		if r.recorder.Enabled() {
			return http.StatusConflict, errRunning
		}
		return http.StatusInternalServerError, r.recorder.Start()
	}))
	m.HandleFunc("POST /debug/flight/trace/stop", r.change(func(*http.Request) (int, error) {
		if !r.recorder.Enabled() {
			return http.StatusConflict, errNotRunning
		}
		return http.StatusInternalServerError, r.recorder.Stop()
	}))
	m.HandleFunc("POST /debug/flight/trace/set_period", r.change(func(req *http.Request) (int, error) {
		if r.recorder.Enabled() {
			return http.StatusPreconditionFailed, errRunning
		}
		d, err := time.ParseDuration(req.FormValue("period"))
		if err == nil {
			r.recorder.SetPeriod(d)
		}
		return http.StatusBadRequest, err
	}))
	m.HandleFunc("GET /debug/flight/trace", func(w http.ResponseWriter, _ *http.Request) {
		r.mu.Lock()
		defer r.mu.Unlock()
		w.Header().Set("Content-Type", "application/octet-stream")
		w.Header().Set("Content-Disposition", `attachment; filename="trace"`)
		if _, err := r.recorder.WriteTo(w); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
		}
	})
}

var (
	errRunning    = fmt.Errorf("the flight recorder is running")
	errNotRunning = fmt.Errorf("the flight recorder is not running")
)

// change returns a handler of what changes the recorder. The status is that of an error.
func (r *flightRecorder) change(f func(*http.Request) (status int, err error)) http.HandlerFunc {
	return func(w http.ResponseWriter, req *http.Request) {
		r.mu.Lock()
		defer r.mu.Unlock()
		if status, err := f(req); err != nil {
			http.Error(w, err.Error(), status)
		}
	}
}
