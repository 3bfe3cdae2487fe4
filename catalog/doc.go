// Package catalog is the list of the formats that there are: it makes their writers from choices as users write them, and has their
// readers in the order in which they are tried. Whoever adds a format adds a line to its table; commands, exporters of BuildKit,
// proxies and plugins take formats from here and know none by name.
package catalog
