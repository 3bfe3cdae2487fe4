package exporter

import (
	"context"
	"errors"
	"sync"
	"testing"
)

func TestLocks(t *testing.T) {
	t.Parallel()
	l := newLocks()
	var group sync.WaitGroup
	inside := map[string]*int{"a": new(int), "b": new(int)}
	for range 50 {
		for name, n := range inside {
			group.Go(func() {
				release, err := l.acquire(t.Context(), name)
				if err != nil {
					t.Error(err)
					return
				}
				defer release()
				if *n++; *n != 1 { // the race detector sees it, too
					t.Errorf("%d have %s at once", *n, name)
				}
				*n--
			})
		}
	}
	group.Wait()
	if len(l.held) != 0 {
		t.Errorf("%d names are left", len(l.held))
	}
}

func TestLocksEndWithTheContext(t *testing.T) {
	t.Parallel()
	l := newLocks()
	release, err := l.acquire(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := l.acquire(ctx, "a"); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	if other, err := l.acquire(t.Context(), "b"); err != nil {
		t.Error(err)
	} else {
		other()
	}
	release()
	if release, err = l.acquire(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	release()
	if len(l.held) != 0 {
		t.Errorf("%d names are left", len(l.held))
	}
}
