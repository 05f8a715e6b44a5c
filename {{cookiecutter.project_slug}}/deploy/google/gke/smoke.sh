# The platform's own smoke test, in the cluster of $environment.
case $environment in
staging) cluster=$CLUSTER_STAGING ;;
*) cluster=$CLUSTER_PRODUCTION ;;
esac
KUBECONFIG=$(mktemp)
export KUBECONFIG
gcloud container clusters get-credentials "$cluster" --quiet || fail "no way into $cluster, see above"
sh deploy/release.sh smoke "$environment"
