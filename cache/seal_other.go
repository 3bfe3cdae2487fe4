//go:build !linux

package cache

import (
	"errors"
	"fmt"
)

// Sealed reports false: only Linux mounts from the cache.
func (b *Blob) Sealed() bool { return false }

// Seal is not possible here.
func (b *Blob) Seal(func() error) error { return fmt.Errorf("seal a blob: %w", errors.ErrUnsupported) }
