package record

import (
	"context"
	"database/sql"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/lazuli-project/lazuli/convert"
)

// hasManifests reports whether images of a format are known as a whole: those that overlaybd's table is made for.
func (m *MySQL) hasManifests(k convert.ManifestKey) bool { return m.manifests && native(k.Format) }

// LookupManifest implements [convert.ManifestRecord].
func (m *MySQL) LookupManifest(ctx context.Context, k convert.ManifestKey, here string) (convert.Known, bool, error) {
	var known convert.Known
	if !m.hasManifests(k) {
		return known, false, nil
	}
	err := m.do(ctx, callTimeout, func(ctx context.Context) error {
		known = convert.Known{}
		rows, err := rowsNear(ctx, m.db, manifestsOfHost, manifestsOfAll, manifestID(k), here)
		if err != nil {
			return err
		}
		return join(&known, rows, func(r row) ocispec.Descriptor {
			return ocispec.Descriptor{MediaType: r.mediaType, Digest: r.digest, Size: r.size}
		})
	})
	if err != nil {
		return convert.Known{}, false, err
	}
	return known, known.Desc.Digest != "", nil
}

// StoreManifest implements [convert.ManifestRecord]. Places other than repositories are not kept.
func (m *MySQL) StoreManifest(ctx context.Context, k convert.ManifestKey, manifest convert.Known) error {
	if !m.hasManifests(k) {
		return nil
	}
	return m.transaction(ctx, callTimeout, func(ctx context.Context, tx *sql.Tx) error {
		for _, place := range manifest.Places {
			host, repo, ok := repository(place)
			if !ok {
				continue
			}
			if _, err := tx.ExecContext(ctx, `INSERT INTO overlaybd_manifests (host, repo, src_digest, out_digest, data_size, mediatype) VALUES (?, ?, ?, ?, ?, ?)
				ON DUPLICATE KEY UPDATE out_digest = VALUES(out_digest), data_size = VALUES(data_size)`,
				host, repo, manifestID(k), manifest.Desc.Digest.String(), manifest.Desc.Size, manifest.Desc.MediaType); err != nil {
				return err
			}
		}
		return nil
	})
}

// ForgetManifest implements [convert.ManifestRecord].
func (m *MySQL) ForgetManifest(ctx context.Context, k convert.ManifestKey, place string) error {
	host, repo, ok := repository(place)
	if !ok || !m.hasManifests(k) {
		return nil
	}
	return m.do(ctx, callTimeout, func(ctx context.Context) error {
		_, err := m.db.ExecContext(ctx, `DELETE FROM overlaybd_manifests WHERE host = ? AND repo = ? AND src_digest = ?`, host, repo, manifestID(k))
		return err
	})
}
