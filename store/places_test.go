package store

import (
	"errors"
	"testing"
)

func TestPlaceOpener(t *testing.T) {
	t.Parallel()
	open := PlaceOpener("host.example:5000", Options{PlainHTTP: true})
	s, err := open(t.Context(), "host.example:5000/team/app")
	if err != nil {
		t.Fatal(err)
	}
	if r := s.Ref(); r.Host != "host.example:5000" || r.Repo != "team/app" {
		t.Errorf("%+v", r)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	for place, want := range map[string]error{"other.example/team/app": ErrNotFound, "oci:/dir": ErrNotFound, "UPPER": ErrReference} {
		if _, err := open(t.Context(), place); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", place, err, want)
		}
	}
}
