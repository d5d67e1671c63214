package transport

import (
	"fmt"

	"github.com/containerd/errdefs/pkg/errgrpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// toStatus is the one place where a gRPC code is chosen. An error of a class of
// containerd/errdefs gets the code of that class; a context's error the code of
// that; any other stays Unknown with its text, which the kubelet reads after a
// failed pull. It also says more than gRPC does of a method that nobody has
// built yet.
func toStatus(method string, err error) error {
	if err == nil {
		return nil
	}
	err = errgrpc.ToGRPC(err)
	if st := status.Convert(err); st.Code() == codes.Unimplemented && st.Message() == "method "+method+" not implemented" {
		return status.Error(codes.Unimplemented, fmt.Sprintf("%s is not built yet in rktshim", method))
	}
	return err
}
