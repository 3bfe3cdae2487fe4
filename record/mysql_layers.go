package record

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/lazuli-project/lazuli/convert"
	"github.com/lazuli-project/lazuli/formats/overlaybd"
)

// maxNear is how many places of a blob are looked up: more than are tried.
const maxNear = 16

// native reports whether layers of a format have rows in overlaybd's tables.
func native(format string) bool { return format == overlaybd.Name }

// nativeLayer is the descriptor of a layer of which only the row is known: what a native layer's has beside that follows from it.
func nativeLayer(dgst digest.Digest, size int64) ocispec.Descriptor {
	return ocispec.Descriptor{
		MediaType: ocispec.MediaTypeImageLayer, Digest: dgst, Size: size,
		Annotations: map[string]string{
			overlaybd.AnnotationVersion: overlaybd.VersionNative, overlaybd.AnnotationDigest: dgst.String(), overlaybd.AnnotationSize: strconv.FormatInt(size, 10),
		},
	}
}

// row is a row of overlaybd_layers or overlaybd_manifests.
type row struct {
	host, repo string
	digest     digest.Digest
	size       int64
	mediaType  string // of a manifest
}

func (r row) place() string { return r.host + "/" + r.repo }

// querier is a database or a transaction.
type querier interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

// Queries of rows by key. The look-up order is overlaybd's: the repository, others of its host, and then other hosts. There is no index
// by key alone, so those go through the hosts, of which there are few.
const (
	layersOfHost = `SELECT host, repo, data_digest, data_size, '' FROM overlaybd_layers
		WHERE host = ? AND chain_id = ? ORDER BY repo = ? DESC, repo LIMIT ` + nearLimit
	layersOfAll = `SELECT STRAIGHT_JOIN l.host, l.repo, l.data_digest, l.data_size, '' FROM (SELECT DISTINCT host FROM overlaybd_layers) AS h
		JOIN overlaybd_layers AS l ON l.host = h.host AND l.chain_id = ? ORDER BY l.host, l.repo LIMIT ` + nearLimit
	manifestsOfHost = `SELECT host, repo, out_digest, data_size, mediatype FROM overlaybd_manifests
		WHERE host = ? AND src_digest = ? ORDER BY repo = ? DESC, repo LIMIT ` + nearLimit
	manifestsOfAll = `SELECT STRAIGHT_JOIN l.host, l.repo, l.out_digest, l.data_size, l.mediatype FROM (SELECT DISTINCT host FROM overlaybd_manifests) AS h
		JOIN overlaybd_manifests AS l ON l.host = h.host AND l.src_digest = ? ORDER BY l.host, l.repo LIMIT ` + nearLimit

	nearLimit = "16" // maxNear
)

// rowsNear returns the rows of a key that are nearest to a place.
func rowsNear(ctx context.Context, q querier, ofHost, ofAll, id, here string) ([]row, error) {
	if host, repo, ok := repository(here); ok {
		list, err := rowsOf(ctx, q, ofHost, host, id, repo)
		if err != nil || len(list) > 0 {
			return list, err
		}
	}
	return rowsOf(ctx, q, ofAll, id)
}

func rowsOf(ctx context.Context, q querier, query string, args ...any) ([]row, error) {
	rows, err := q.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var list []row
	for rows.Next() {
		var r row
		if err := rows.Scan(&r.host, &r.repo, &r.digest, &r.size, &r.mediaType); err != nil {
			return nil, err
		}
		list = append(list, r)
	}
	return list, rows.Err()
}

// join adds rows to what is known of a blob, as far as they are of that blob.
func join(known *convert.Known, rows []row, describe func(row) ocispec.Descriptor) error {
	for _, r := range rows {
		if known.Desc.Digest == "" {
			if err := r.digest.Validate(); err != nil {
				return err
			}
			known.Desc = describe(r)
		}
		if r.digest == known.Desc.Digest {
			known.Places = append(known.Places, r.place())
		}
	}
	return nil
}

// Lookup implements [convert.Record].
func (m *MySQL) Lookup(ctx context.Context, k convert.Key) (convert.Known, bool, error) {
	return m.LookupNear(ctx, k, "")
}

// LookupNear implements [convert.NearRecord].
func (m *MySQL) LookupNear(ctx context.Context, k convert.Key, here string) (convert.Known, bool, error) {
	var known convert.Known
	id := layerID(k)
	err := m.do(ctx, callTimeout, func(ctx context.Context) error {
		known = convert.Known{}
		var err error
		if m.own && !isForeign(k) {
			if known, err = ownLayer(ctx, m.db, id, here); err != nil {
				return err
			}
		}
		if m.layers && native(k.Format) {
			rows, err := rowsNear(ctx, m.db, layersOfHost, layersOfAll, id, here)
			if err != nil {
				return err
			}
			return join(&known, rows, func(r row) ocispec.Descriptor { return nativeLayer(r.digest, r.size) })
		}
		return nil
	})
	if err != nil {
		return convert.Known{}, false, err
	}
	return known, known.Desc.Digest != "", nil
}

// ownLayer reads what our tables know of a layer, which may be nothing.
func ownLayer(ctx context.Context, q querier, id, here string) (convert.Known, error) {
	var raw string
	err := q.QueryRowContext(ctx, `SELECT descriptor FROM lazuli_layers WHERE id = ?`, id).Scan(&raw)
	if errors.Is(err, sql.ErrNoRows) {
		return convert.Known{}, nil
	}
	if err != nil {
		return convert.Known{}, err
	}
	var known convert.Known
	if known.Desc, err = parseDescriptor(raw); err != nil {
		return convert.Known{}, err
	}
	host, _, _ := strings.Cut(here, "/")
	rows, err := q.QueryContext(ctx, `SELECT place FROM lazuli_places WHERE digest = ?
		ORDER BY place = ? DESC, LEFT(place, ?) = ? DESC, place LIMIT `+nearLimit, known.Desc.Digest.String(), []byte(here), len(host)+1, []byte(host+"/"))
	if err != nil {
		return convert.Known{}, err
	}
	defer rows.Close()
	for rows.Next() {
		var place string
		if err := rows.Scan(&place); err != nil {
			return convert.Known{}, err
		}
		known.Places = append(known.Places, place)
	}
	return known, rows.Err()
}

// Store implements [convert.Record].
func (m *MySQL) Store(ctx context.Context, k convert.Key, blob convert.Known) error {
	raw, err := json.Marshal(blob.Desc)
	if err != nil {
		return m.wrap(err)
	}
	id := layerID(k)
	return m.transaction(ctx, callTimeout, func(ctx context.Context, tx *sql.Tx) error {
		// The layer first: who changes what is known of it waits for this row.
		if m.own && !isForeign(k) {
			if _, err := tx.ExecContext(ctx, `INSERT INTO lazuli_layers (id, source, format, writer, below, chain, digest, descriptor) VALUES (?, ?, ?, ?, ?, ?, ?, ?)
				ON DUPLICATE KEY UPDATE digest = VALUES(digest), descriptor = VALUES(descriptor)`,
				id, k.Source.String(), k.Format, k.Writer, k.Below.String(), k.Chain.String(), blob.Desc.Digest.String(), string(raw)); err != nil {
				return err
			}
		}
		for _, place := range blob.Places {
			if err := m.addPlace(ctx, tx, k, id, blob.Desc, place); err != nil {
				return err
			}
		}
		return nil
	})
}

// addPlace notes where a blob is.
func (m *MySQL) addPlace(ctx context.Context, tx *sql.Tx, k convert.Key, id string, blob ocispec.Descriptor, place string) error {
	host, repo, ok := repository(place)
	switch {
	case ok && m.layers && isForeign(k):
		// What the other converter says is never changed.
		_, err := tx.ExecContext(ctx, `INSERT INTO overlaybd_layers (host, repo, chain_id, data_digest, data_size) VALUES (?, ?, ?, ?, ?)
			ON DUPLICATE KEY UPDATE host = overlaybd_layers.host`, host, repo, id, blob.Digest.String(), blob.Size)
		return err
	case ok && m.layers && native(k.Format):
		_, err := tx.ExecContext(ctx, `INSERT INTO overlaybd_layers (host, repo, chain_id, data_digest, data_size) VALUES (?, ?, ?, ?, ?)
			ON DUPLICATE KEY UPDATE data_digest = VALUES(data_digest), data_size = VALUES(data_size)`, host, repo, id, blob.Digest.String(), blob.Size)
		return err
	case isForeign(k):
		return nil // its rows are of repositories only
	case !m.own:
		return fmt.Errorf("%w: lazuli_layers, lazuli_places", errTables)
	}
	_, err := tx.ExecContext(ctx, `INSERT INTO lazuli_places (digest, place_id, place) VALUES (?, ?, ?) ON DUPLICATE KEY UPDATE place = VALUES(place)`,
		blob.Digest.String(), placeID(place), []byte(place))
	return err
}

func placeID(place string) string {
	sum := sha256.Sum256([]byte(place))
	return hex.EncodeToString(sum[:])
}

// Forget implements [convert.Record].
func (m *MySQL) Forget(ctx context.Context, k convert.Key, place string) error {
	if isForeign(k) {
		return nil
	}
	id := layerID(k)
	return m.transaction(ctx, callTimeout, func(ctx context.Context, tx *sql.Tx) error {
		var dgst string
		if m.own {
			err := tx.QueryRowContext(ctx, `SELECT digest FROM lazuli_layers WHERE id = ? FOR UPDATE`, id).Scan(&dgst)
			if err != nil && !errors.Is(err, sql.ErrNoRows) {
				return err
			}
		}
		rows := m.layers && native(k.Format)
		if host, repo, ok := repository(place); ok && rows {
			if _, err := tx.ExecContext(ctx, `DELETE FROM overlaybd_layers WHERE host = ? AND repo = ? AND chain_id = ?`, host, repo, id); err != nil {
				return err
			}
		}
		if dgst == "" {
			return nil
		}
		if _, err := tx.ExecContext(ctx, `DELETE FROM lazuli_places WHERE digest = ? AND place_id = ?`, dgst, placeID(place)); err != nil {
			return err
		}
		lost, err := isNowhere(ctx, tx, id, dgst, rows)
		if err == nil && lost {
			_, err = tx.ExecContext(ctx, `DELETE FROM lazuli_layers WHERE id = ?`, id)
		}
		return err
	})
}

// isNowhere reports whether no place of a layer's blob is known. rows says that its places may be in overlaybd_layers.
func isNowhere(ctx context.Context, q querier, id, dgst string, rows bool) (bool, error) {
	var n int
	if err := q.QueryRowContext(ctx, `SELECT COUNT(*) FROM lazuli_places WHERE digest = ?`, dgst).Scan(&n); err != nil || n > 0 {
		return false, err
	}
	if !rows {
		return true, nil
	}
	list, err := rowsOf(ctx, q, layersOfAll, id)
	return len(list) == 0, err
}
