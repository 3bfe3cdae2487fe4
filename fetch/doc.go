// Package fetch gives lazy bytes of remote objects.
//
// [Remote] reads ranges of an HTTP object with retry, back-off and remembered redirects.
// [Reader] turns a blob's layout and source into verified plain bytes: it finds the spans that a read needs, takes
// them from the cache or fetches them, neighbours in one request, each span once however many readers wait for it,
// verifies their digests before any byte is answered, and fills the cache.
package fetch
