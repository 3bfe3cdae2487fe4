package registryproxy

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/lazuli-project/lazuli/convert"
)

// maxListed is how many ended conversions are remembered.
const maxListed = 100

// errClosed ends conversions when the proxy ends.
var errClosed = errors.New("the proxy ends")

// queue runs jobs one after the other: each uses all cores that there are. Of several pushes to one tag, the last counts.
type queue struct {
	limit   int
	run     func(ctx context.Context, j *job) (*convert.Result, error)
	changed chan struct{} // has room for one
	end     context.CancelCauseFunc
	ended   chan struct{} // closed when nothing runs any more

	mu      sync.Mutex // guards what follows, and the states of jobs
	waiting []*job
	running *job
	past    []Conversion // the latest last
	closing bool
}

func newQueue(ctx context.Context, limit int, run func(context.Context, *job) (*convert.Result, error)) *queue {
	ctx, end := context.WithCancelCause(ctx)
	q := &queue{limit: limit, run: run, changed: make(chan struct{}, 1), end: end, ended: make(chan struct{})}
	go q.work(ctx)
	return q
}

// add puts a job into the queue, and takes out, or ends, one for an image that the tag named before. It is false where there is no room.
func (q *queue) add(j *job) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	same := func(o *job) bool {
		return o.rule == j.rule && o.push.repository == j.push.repository && o.push.tag == j.push.tag
	}
	q.waiting = slices.DeleteFunc(q.waiting, func(o *job) bool {
		if !same(o) {
			return false
		}
		q.endLocked(o, nil, errPushedOver, 0)
		return true
	})
	if q.running != nil && same(q.running) {
		q.running.cancel(errPushedOver)
	}
	if q.closing || len(q.waiting) >= q.limit {
		return false
	}
	q.waiting = append(q.waiting, j)
	q.wake()
	return true
}

func (q *queue) wake() {
	select {
	case q.changed <- struct{}{}:
	default:
	}
}

// work runs jobs until the context ends.
func (q *queue) work(ctx context.Context) {
	defer close(q.ended)
	for {
		j, jobCtx := q.next(ctx)
		if j == nil {
			select {
			case <-q.changed:
				continue
			case <-ctx.Done():
				q.drop(context.Cause(ctx))
				return
			}
		}
		begin := time.Now()
		res, err := q.run(jobCtx, j)
		if err != nil && jobCtx.Err() != nil {
			err = context.Cause(jobCtx)
		}
		j.cancel(nil)
		q.mu.Lock()
		q.running = nil
		q.endLocked(j, res, err, time.Since(begin))
		q.mu.Unlock()
		q.wake() // who closes waits for this
	}
}

// next takes the first job that waits.
func (q *queue) next(ctx context.Context) (*job, context.Context) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if ctx.Err() != nil {
		return nil, nil
	}
	if len(q.waiting) == 0 {
		if q.closing {
			q.end(errClosed)
		}
		return nil, nil
	}
	j := q.waiting[0]
	q.waiting = slices.Delete(q.waiting, 0, 1)
	q.running = j
	ctx, j.cancel = context.WithCancelCause(ctx)
	j.state.State = Running
	return j, ctx
}

// drop ends what waits.
func (q *queue) drop(cause error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closing = true
	for _, j := range q.waiting {
		q.endLocked(j, nil, cause, 0)
	}
	q.waiting = nil
}

// endLocked notes how a job ended. q.mu is held.
func (q *queue) endLocked(j *job, res *convert.Result, err error, took time.Duration) {
	j.finish(res, err, took)
	q.past = append(q.past, j.state)
	q.past = q.past[max(0, len(q.past)-maxListed):]
	close(j.done)
}

func (q *queue) state(j *job) Conversion {
	q.mu.Lock()
	defer q.mu.Unlock()
	return j.state
}

// list returns the conversions, the latest first.
func (q *queue) list() []Conversion {
	q.mu.Lock()
	defer q.mu.Unlock()
	all := slices.Clone(q.past)
	if q.running != nil {
		all = append(all, q.running.state)
	}
	for _, j := range q.waiting {
		all = append(all, j.state)
	}
	slices.Reverse(all)
	return all
}

// close takes no more jobs, and waits for those that are there until ctx ends.
func (q *queue) close(ctx context.Context) error {
	q.mu.Lock()
	q.closing = true
	q.mu.Unlock()
	q.wake()
	select {
	case <-q.ended:
		return nil
	case <-ctx.Done():
	}
	q.mu.Lock()
	left := slices.Clone(q.waiting)
	if q.running != nil {
		left = append(left, q.running)
	}
	q.mu.Unlock()
	q.end(errClosed)
	<-q.ended
	if len(left) > 0 {
		return errLeft(left)
	}
	return nil
}
