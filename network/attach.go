package network

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/rktnetes/rktshim/internal/undo"
)

// Attach puts the pod on the node's network. It saves a record before the first
// plugin runs and again, with the result, after the last. When it fails it has
// run DEL and saved nil; if that failed too, the error says so, and what was
// saved last is for Detach. What an earlier Attach of the same pod has left must
// be detached first.
//
// Bad input is of class InvalidArgument, a network that is not ready Unavailable;
// then nothing was saved or run. A plugin that hangs is killed when the
// configured timeout or ctx ends, and the error wraps context.DeadlineExceeded or
// context.Canceled. The undoing has a deadline of its own.
func (n *CNI) Attach(ctx context.Context, pod Pod, save Save) (_ Result, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("attach pod %s: %w", pod.ID, err)
		}
	}()
	r, err := n.prepare(pod)
	if err != nil {
		return Result{}, err
	}
	// Before the pod's file is made, which the record explains after a crash.
	if err := r.save(ctx, save); err != nil {
		return Result{}, err
	}
	undo := undo.New(n.config.Timeout)
	defer func() {
		if uerr := undo.Run(ctx); uerr != nil {
			err = fmt.Errorf("%w (undo: %v)", err, uerr)
		}
	}()
	var claim *claim
	var chain *chain
	undo.Push("detach", func(ctx context.Context) error {
		if chain != nil {
			if err := chain.del(ctx); err != nil {
				claim.release(true)
				return err
			}
		}
		if claim != nil {
			claim.release(false)
		}
		return save(ctx, nil)
	})
	if claim, err = n.claim(ctx, pod.ID); err != nil {
		return Result{}, err
	}
	if chain, err = n.chain(r, claim); err != nil {
		return Result{}, err
	}
	result, err := n.add(ctx, chain)
	if err != nil {
		return Result{}, err
	}
	if err := r.save(ctx, save); err != nil {
		return Result{}, err
	}
	undo.Release()
	claim.release(false)
	return result, nil
}

// prepare finds whatever can be found wrong before anything is done.
func (n *CNI) prepare(pod Pod) (*record, error) {
	if err := pod.check(); err != nil {
		return nil, err
	}
	conf, cidrs, err := n.network()
	if err != nil {
		return nil, err
	}
	caps, err := pod.capabilities(cidrs)
	if err != nil {
		return nil, err
	}
	if err := conf.findPlugins(n.config.BinDirs); err != nil {
		return nil, err
	}
	return newRecord(conf, pod, caps, n.config.BinDirs), nil
}

func (n *CNI) add(ctx context.Context, chain *chain) (Result, error) {
	ctx, cancel := context.WithTimeout(ctx, n.config.Timeout)
	defer cancel()
	if err := chain.add(ctx); err != nil {
		return Result{}, err
	}
	return chain.result()
}

func (r *record) save(ctx context.Context, save Save) error {
	data, err := r.encode()
	if err != nil {
		return err
	}
	if err := save(ctx, data); err != nil {
		return fmt.Errorf("save network record: %w", err)
	}
	return nil
}

// Detach takes back what a record that Attach saved tells of, finished or not. It
// may be repeated until it returns nil, also after it has. It needs neither the
// pod's namespace nor the configuration that the pod was attached by, but it does
// need the plugins: one that is gone is an error, because only it knows what it
// holds for the pod. A nil record is nothing to do.
//
// One call takes at most the configured timeout, plus as long again if a plugin
// that an earlier process started still runs.
func (n *CNI) Detach(ctx context.Context, saved json.RawMessage) (err error) {
	if len(saved) == 0 {
		return nil
	}
	r, err := decodeRecord(saved)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("detach pod %s: %w", r.Pod, err)
		}
	}()
	claim, err := n.claim(ctx, r.Pod)
	if err != nil {
		return err
	}
	unfinished := true
	defer func() { claim.release(unfinished) }()
	chain, err := n.chain(r, claim)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, n.config.Timeout)
	defer cancel()
	if err := chain.del(ctx); err != nil {
		return err
	}
	unfinished = false
	return nil
}

// Check asks the plugins whether the pod's network is still as its record says.
// It returns nil for networks that do not support the question (before CNI 0.4.0,
// or disableCheck). A record without a result is of class FailedPrecondition.
//
// The answer is for a person to judge: portmap 1.1.1 (Debian 12) reports host
// ports of pods without IPv6 as broken.
func (n *CNI) Check(ctx context.Context, saved json.RawMessage) error {
	r, err := decodeRecord(saved)
	if err != nil {
		return err
	}
	if r.Result == nil {
		return fmt.Errorf("check network of pod %s: it was not attached: %w", r.Pod, errdefs.ErrFailedPrecondition)
	}
	if r.DisableCheck || !r.speaks("0.4.0") {
		return nil
	}
	chain, err := n.chain(r, nil)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, n.config.Timeout)
	defer cancel()
	if err := chain.check(ctx); err != nil {
		return fmt.Errorf("check network of pod %s: %w", r.Pod, err)
	}
	return nil
}
