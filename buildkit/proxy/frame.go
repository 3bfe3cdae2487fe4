package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// maxMessage bounds one message each way, in bytes: BuildKit's own bound.
const maxMessage = 16 << 20

// frame is a message as it came.
type frame struct{ payload []byte }

// frameCodec takes messages as they are.
type frameCodec struct{}

var errNoFrame = errors.New("not a frame")

// Marshal implements encoding.Codec.
func (frameCodec) Marshal(v any) ([]byte, error) {
	f, ok := v.(*frame)
	if !ok {
		return nil, fmt.Errorf("%T: %w", v, errNoFrame)
	}
	return f.payload, nil
}

// Unmarshal implements encoding.Codec.
func (frameCodec) Unmarshal(p []byte, v any) error {
	f, ok := v.(*frame)
	if !ok {
		return fmt.Errorf("%T: %w", v, errNoFrame)
	}
	f.payload = append([]byte(nil), p...) // p is used again
	return nil
}

// Name implements encoding.Codec. It is the one that peers know.
func (frameCodec) Name() string { return "proto" }

// outgoing returns a context for a call to the daemon with the metadata of the client's.
func outgoing(ctx context.Context) context.Context {
	if md, ok := metadata.FromIncomingContext(ctx); ok {
		return metadata.NewOutgoingContext(ctx, md.Copy())
	}
	return ctx
}

// forward passes all messages of a call on, both ways.
func (p *Proxy) forward(ctx context.Context, method string, client grpc.ServerStream) error {
	ctx, cancel := context.WithCancel(outgoing(ctx))
	defer cancel()
	daemon, err := p.daemon.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, method)
	if err != nil {
		return err
	}
	// It ends at the latest when this call returns: receiving ends then.
	go func() {
		for {
			var f frame
			err := client.RecvMsg(&f)
			if errors.Is(err, io.EOF) {
				_ = daemon.CloseSend() // an error is seen by who receives
				return
			}
			if err != nil {
				cancel()
				return
			}
			if daemon.SendMsg(&f) != nil {
				return // as above
			}
		}
	}()
	return receive(client, daemon)
}

// receive passes the daemon's messages on until it ends.
func receive(client grpc.ServerStream, daemon grpc.ClientStream) error {
	defer func() { client.SetTrailer(daemon.Trailer()) }()
	header, err := daemon.Header()
	if err != nil {
		return err
	}
	if err := client.SendHeader(header); err != nil {
		return err
	}
	for {
		var f frame
		err := daemon.RecvMsg(&f)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := client.SendMsg(&f); err != nil {
			return err
		}
	}
}

// invalid is the error of a request that cannot be done.
func invalid(err error) error { return status.Error(codes.InvalidArgument, err.Error()) }
