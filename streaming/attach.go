package streaming

import "context"

// attach joins a client to a container until the container has ended and its output
// was handed on, or ctx ends, which leaves the container alone.
func (s *Service) attach(ctx context.Context, id string, c client) error {
	ours, theirs, err := newPipes(c)
	if err != nil {
		return err
	}
	wait, err := s.runtime.Attach(ctx, id, theirs)
	theirs.close()
	if err != nil {
		ours.close()
		return err
	}
	_, err = converse(ctx, c, ours, peer{
		wait:   func(ctx context.Context) (int, error) { return 0, wait(ctx) },
		resize: func(ctx context.Context, rows, cols int) error { return s.runtime.Resize(ctx, id, rows, cols) },
	})
	return err
}
