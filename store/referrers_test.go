package store_test

import (
	"net/http"
	"testing"

	"github.com/lazuli-project/lazuli/internal/registrytest"
)

// Registries without the referrers API seldom delete anything: the list of referrers that another one replaced stays.
func TestReferrersWithoutDeletion(t *testing.T) {
	t.Parallel()
	reg := newRegistry(t, registrytest.Options{NoReferrers: true})
	reg.Inject(registrytest.Fault{Method: http.MethodDelete, Status: http.StatusMethodNotAllowed})
	testReferrers(t, mustParse(t, reg.host+"/image:v1"))
}

// A referrer whose push ended before it was made known is made known by the next push.
func TestReferrersAgain(t *testing.T) {
	t.Parallel()
	reg := newRegistry(t, registrytest.Options{NoReferrers: true})
	ref := mustParse(t, reg.host+"/image:v1")
	dst := openTarget(t, ref)
	subject := image(t, dst, nil, content(5, 10))
	reg.Inject(registrytest.Fault{Method: http.MethodPut, Path: "/manifests/sha256-", Status: http.StatusForbidden})
	other, raw := manifest(t, dst, &subject, content(6, 10))
	if err := dst.Put(t.Context(), other, raw); err == nil {
		t.Fatal("the list was not refused")
	}
	if ok, err := dst.Exists(t.Context(), other); err != nil || !ok {
		t.Fatalf("the manifest is not there: %v", err)
	}
	reg.ClearFaults()
	if err := dst.Put(t.Context(), other, raw); err != nil {
		t.Fatal(err)
	}
	refs, err := openSource(t, ref).Referrers(t.Context(), subject, "")
	if err != nil || len(refs) != 1 || refs[0].Digest != other.Digest {
		t.Errorf("referrers %v, %v", refs, err)
	}
}
