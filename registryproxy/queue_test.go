package registryproxy

import (
	"context"
	"errors"
	"testing"

	"github.com/lazuli-project/lazuli/convert"
)

func newJob(rule *Rule, tag string) *job {
	return &job{rule: rule, push: push{repository: "app", tag: tag}, done: make(chan struct{}), state: Conversion{Tag: tag, State: Waiting}}
}

func TestLastPushCounts(t *testing.T) {
	t.Parallel()
	started, rule := make(chan string), &Rule{}
	q := newQueue(t.Context(), 2, func(ctx context.Context, j *job) (*convert.Result, error) {
		select {
		case started <- j.push.tag:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		if j.push.tag == "slow" {
			<-ctx.Done()
			return nil, ctx.Err()
		}
		return &convert.Result{}, nil
	})
	first, other := newJob(rule, "slow"), newJob(rule, "b")
	q.add(first)
	<-started
	q.add(other)
	// The same tag again: the running one ends, another one that waits for the same tag is taken out.
	again := newJob(rule, "b")
	q.add(again)
	<-other.done
	second := newJob(rule, "slow")
	if !q.add(second) {
		t.Fatal("no room")
	}
	if q.add(newJob(rule, "c")) {
		t.Error("room for more than the limit")
	}
	<-first.done
	if tag := <-started; tag != "b" {
		t.Errorf("%s begins", tag)
	}
	<-again.done
	<-started
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := q.close(ctx); err == nil {
		t.Error("no word about the conversion that was ended")
	}
	<-second.done
	if q.add(newJob(rule, "d")) {
		t.Error("room after the end")
	}
	for j, want := range map[*job]State{first: Skipped, other: Skipped, again: Done, second: Failed} {
		if got := q.state(j); got.State != want {
			t.Errorf("%s: %+v, want %s", j.push.tag, got, want)
		}
	}
	if n := len(q.list()); n != 4 {
		t.Errorf("%d conversions", n)
	}
}

func TestCloseWaits(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	q := newQueue(t.Context(), 10, func(context.Context, *job) (*convert.Result, error) {
		<-release
		return nil, errors.New("wrong")
	})
	jobs := []*job{newJob(&Rule{}, "a"), newJob(&Rule{}, "b")}
	for _, j := range jobs {
		q.add(j)
	}
	close(release)
	if err := q.close(t.Context()); err != nil {
		t.Error(err)
	}
	for _, j := range jobs {
		if s := q.state(j); s.State != Failed || s.Error != "wrong" {
			t.Errorf("%+v", s)
		}
	}
}

func TestQueueForgetsOldJobs(t *testing.T) {
	t.Parallel()
	q := newQueue(t.Context(), 2, func(context.Context, *job) (*convert.Result, error) { return &convert.Result{}, nil })
	for range maxListed + 10 {
		j := newJob(&Rule{}, "a")
		q.add(j)
		<-j.done
	}
	if n := len(q.list()); n != maxListed {
		t.Errorf("%d conversions are remembered", n)
	}
}
