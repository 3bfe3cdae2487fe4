package record

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/lazuli-project/lazuli/formats/overlaybd"
)

// Entries implements [Record]. Layers of overlaybd's own converter are entries of [Foreign], whose media type is supposed. Rows that
// do not hold digests are left out, and so are rows of ours of which our tables know nothing.
func (m *MySQL) Entries(ctx context.Context) ([]Entry, error) {
	var list []Entry
	err := m.do(ctx, listTimeout, func(ctx context.Context) error {
		list = nil
		byID := map[string]int{} // indexes into list
		var err error
		if m.own {
			if list, err = ownEntries(ctx, m.db, byID); err != nil {
				return err
			}
		}
		if m.layers {
			list, err = addRows(ctx, m.db, list, byID)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	sortEntries(list)
	return list, nil
}

// ownEntries reads our tables.
func ownEntries(ctx context.Context, q querier, byID map[string]int) ([]Entry, error) {
	places, err := ownPlaces(ctx, q)
	if err != nil {
		return nil, err
	}
	rows, err := q.QueryContext(ctx, `SELECT id, source, format, writer, below, chain, descriptor FROM lazuli_layers`)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var list []Entry
	for rows.Next() {
		var e Entry
		var id, raw string
		if err := rows.Scan(&id, &e.Source, &e.Format, &e.Writer, &e.Below, &e.Chain, &raw); err != nil {
			return nil, err
		}
		if e.Blob, err = parseDescriptor(raw); err != nil {
			return nil, fmt.Errorf("layer %s: %w", e.Source, err)
		}
		e.Places = places[e.Blob.Digest]
		byID[id] = len(list)
		list = append(list, e)
	}
	return list, rows.Err()
}

// ownPlaces reads the places that are in no row of overlaybd's tables.
func ownPlaces(ctx context.Context, q querier) (map[digest.Digest][]string, error) {
	rows, err := q.QueryContext(ctx, `SELECT digest, place FROM lazuli_places ORDER BY digest, place`)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	places := map[digest.Digest][]string{}
	for rows.Next() {
		var dgst digest.Digest
		var place string
		if err := rows.Scan(&dgst, &place); err != nil {
			return nil, err
		}
		places[dgst] = append(places[dgst], place)
	}
	return places, rows.Err()
}

// addRows adds the rows of overlaybd_layers to the entries that they belong to, and those of the other converter as entries of their own.
func addRows(ctx context.Context, q querier, list []Entry, byID map[string]int) ([]Entry, error) {
	rows, err := q.QueryContext(ctx, `SELECT host, repo, data_digest, data_size, chain_id FROM overlaybd_layers ORDER BY host, repo`)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var r row
		var id string
		if err := rows.Scan(&r.host, &r.repo, &r.digest, &r.size, &id); err != nil {
			return nil, err
		}
		key := id
		if !strings.HasPrefix(id, ownPrefix) {
			key += " " + r.digest.String() // repositories may have layers of different options
			if _, ok := byID[key]; !ok {
				e := Entry{Format: overlaybd.Name, Writer: Foreign, Chain: digest.Digest(id), Blob: nativeLayer(r.digest, r.size)}
				if e.Validate() != nil {
					continue
				}
				byID[key] = len(list)
				list = append(list, e)
			}
		}
		if i, ok := byID[key]; ok && list[i].Blob.Digest == r.digest {
			list[i].Places = append(slices.Clip(list[i].Places), r.place()) // another layer may have the same blob
		}
	}
	return list, rows.Err()
}

// Import implements [Record].
func (m *MySQL) Import(ctx context.Context, e Entry) error { return importEntry(ctx, m, e) }
