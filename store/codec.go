package store

import (
	"context"
	"errors"
	"fmt"
)

// Codec seals what is stored of the user's content, and opens it again. It must
// be safe for concurrent use.
type Codec interface {
	// Name tells what was sealed by this codec: at most 16 visible ASCII characters.
	Name() string
	// Seal is called before a transaction is begun where that can be, but for a
	// message that is parked within one: it must not be slow.
	Seal(ctx context.Context, plain []byte) ([]byte, error)
	// Open may return an error that matches ErrRedacted for what was never to be
	// read again.
	Open(ctx context.Context, sealed []byte) ([]byte, error)
}

// ErrRedacted says that stored content can't be read again on purpose.
var ErrRedacted = errors.New("content is redacted")

const maxCodecName = 16

// seal returns content as it is stored. nil stays nil.
func (s *Store) seal(ctx context.Context, plain []byte) ([]byte, error) {
	if s.cfg.Codec == nil || plain == nil {
		return plain, nil
	}
	sealed, err := s.cfg.Codec.Seal(ctx, plain)
	if err != nil {
		return nil, fmt.Errorf("store: codec %q can't seal: %w", s.cfg.Codec.Name(), err)
	}
	return sealed, nil
}

func (s *Store) codecName() string {
	if s.cfg.Codec == nil {
		return ""
	}
	return s.cfg.Codec.Name()
}

// unseal returns what was sealed by the codec of that name.
func (s *Store) unseal(ctx context.Context, name string, sealed []byte) ([]byte, error) {
	if name == forgottenCodec {
		return nil, fmt.Errorf("store: %w: it was forgotten", ErrRedacted)
	}
	if name == "" || sealed == nil {
		return sealed, nil
	}
	if name != s.codecName() {
		return nil, fmt.Errorf("store: content was sealed by codec %q, and Config.Codec is %q", name, s.codecName())
	}
	plain, err := s.cfg.Codec.Open(ctx, sealed)
	if err != nil {
		return nil, fmt.Errorf("store: codec %q can't open: %w", name, err)
	}
	return plain, nil
}
