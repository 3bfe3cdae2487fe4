package store

import (
	"context"
	"fmt"
)

// PlaceOpener returns a function that opens places, as [Ref.Place] gives them, of one registry: from there, a target in the same registry
// mounts what it lacks. Other places give ErrNotFound.
func PlaceOpener(host string, opts Options) func(ctx context.Context, place string) (Source, error) {
	return func(ctx context.Context, place string) (Source, error) {
		ref, err := Parse(place)
		if err != nil {
			return nil, err
		}
		if ref.Transport != Registry || ref.Host != host {
			return nil, fmt.Errorf("%s is in another registry: %w", place, ErrNotFound)
		}
		return OpenSource(ctx, ref, opts)
	}
}
