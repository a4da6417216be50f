package adminapi_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"testing"

	"troupe/internal/fault"
)

func TestABackupIsStreamedAndItsEndIsTold(t *testing.T) {
	p := serve(t)
	stream, err := p.client.Backup(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var content bytes.Buffer
	sum, err := stream.Copy(t.Context(), &content)
	if err := errors.Join(err, stream.Close()); err != nil {
		t.Fatal(err)
	}
	if sum.Records == 0 || sum.Bytes == 0 || int64(content.Len()) < sum.Bytes || stream.Header.Member != "one.example.test" || stream.Header.Authority == "" || stream.Estimate <= 0 {
		t.Errorf("%d bytes, summary %+v, header %+v, estimate %d", content.Len(), sum, stream.Header, stream.Estimate)
	}
	if !strings.Contains(content.String(), "keys.json") {
		t.Error("there are no keys in it")
	}

	// One at a time: the error of the member comes through, with its kind, also when nothing else did.
	p.busy <- struct{}{}
	stream, err = p.client.Backup(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	_, err = stream.Copy(t.Context(), io.Discard)
	if fault.KindOf(err) != fault.Conflict {
		t.Errorf("a second one: %v", err)
	}
	<-p.busy
	if err := stream.Close(); err != nil {
		t.Error(err)
	}

	// Who goes away leaves the member free for the next.
	ctx, cancel := context.WithCancel(t.Context())
	stream, err = p.client.Backup(ctx)
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	_ = stream.Close() // it is cut already
	p.busy <- struct{}{}
	<-p.busy
}
